"""The prediction game: one player's program against the other's prediction of its output."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame
from llm_gym.games.code.drawing import pick
from llm_gym.games.code.programs import Judge, fenced, shown
from llm_gym.games.prediction.fairness import judge_program
from llm_gym.games.prediction.names import MODULES, NAMES
from llm_gym.games.prediction.players import reference, sampler
from llm_gym.sandbox import Isolation

GENERATOR, PREDICTOR = 0, 1
SUBJECTS = (
    *("whole numbers", "fractions", "a list", "a dictionary", "a set of numbers", "a word", "slices of a string"),
    *("a loop", "two nested loops", "a while loop", "recursion", "sorting", "a function that gets a function"),
    *("a class", "an exception that is caught", "bits", "remainders", "a running total", "counting letters"),
)


class PredictionGame(TextGame):
    """The prediction game, ``llmgym/PredictionGame-v0``: player 0 writes a program, player 1 predicts its output.

    ## Observation
    Player 0, the generator, sees what makes a program fair, and a random subject, which it may ignore::

        You are the generator. Write a program. It might be about a while loop, with the number 17.
        It loses unless it runs without input within 2 seconds and prints one line ...

    Player 1, the predictor, sees the program, never its output::

        You are the predictor. What does this program print?
        ```python
        print(3 * 14)
        ```

    ## Action
    The generator's is a program: by default (``fence``) the last fenced Python block of the reply, else the last fenced
    block, else the whole reply. The predictor's is the line that it expects, by default in ``\\boxed{42}``.
    ``action_format`` may differ by seat: ``("fence", "tag")``. ``bracket`` cannot hold a line with square brackets.

    ## Reward
    +1 to the generator and -1 to the predictor if the prediction is wrong, the reverse if it is right; outer whitespace
    does not count. The generator loses at once with a program that is not fair. A fair program ends within its limits;
    prints one line of at most ``max_output`` characters, which a reply can contain; prints the same again with another
    hash seed; has at most ``max_program`` characters, all of which print; imports only a few modules that do not depend
    on the time or on random numbers, and does not use ``eval``, ``id`` and other ways around this (``MODULES`` and
    ``NAMES`` in :mod:`llm_gym.games.prediction.names`). The reward term is ``prediction``, or ``program`` if that was
    not fair.

    At the end ``info`` has ``output`` (of a fair program), ``prediction`` (its first 200 characters) and ``unfair``:
    what was not fair about the program, or an empty string.

    ## Start and end
    One turn each; the generator's only if its program is not fair. In the predictor's seat that is an episode which
    ended before its first turn; ``opponent="reference"`` writes fair programs only.

    ## Arguments
    ``max_output``, ``max_program``: see above. ``timeout_s``: seconds that a run may take. ``isolation``: ``full``
    (resetting the environment raises ``SandboxUnavailable`` where that is not available), ``container`` or
    ``best_effort``.

    ## Version history
    v0: first version.
    """

    num_players = 2
    action_format = ("fence", "boxed")
    example = ("print(3 * 14)", "42")
    perfect_information = False
    players = {"reference": reference, "sampler": sampler}

    def __init__(
        self,
        max_output: int = 80,
        max_program: int = 2000,
        timeout_s: float = 2.0,
        isolation: Isolation = "full",
    ) -> None:
        for name, limit in (("max_output", max_output), ("max_program", max_program)):
            if type(limit) is not int or limit < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {limit!r}")
        self.judge = Judge(timeout_s, isolation)
        self.max_output, self.max_program = max_output, max_program
        self.rules = (
            f"The generator writes a Python program that prints one line, of at most {max_output} characters. The "
            "predictor says what it prints, and wins if that is right; the generator wins if it is wrong."
        )
        self.fairness = (
            f"It loses unless it runs without input within {timeout_s:g} seconds and prints one line of at most "
            f"{max_output} characters, the same on every run. It has at most {max_program} characters. It may import "
            f"{', '.join(MODULES)}. It may not use {', '.join(NAMES)}."
        )

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.judge.start()
        self.idea = f"{SUBJECTS[pick(len(SUBJECTS), rng)]}, with the number {2 + pick(98, rng)}"
        self.program = self.output = self.unfair = ""
        self.prediction: str | None = None
        self.current_player: int | None = GENERATOR

    def observe(self, player: int) -> str:
        if player == GENERATOR:
            lines = [f"You are the generator. Write a program. It might be about {self.idea}.", self.fairness]
            if self.program:
                lines.append(f"Your program:\n{fenced(shown(self.program, self.max_program))}")
        elif self.program:
            program = fenced(shown(self.program, self.max_program))
            lines = [f"You are the predictor. What does this program print?\n{program}"]
        else:
            lines = ["You are the predictor. The program is not written yet."]
        if self.current_player is None:
            if self.prediction is None:
                lines.append(f"The program loses: {self.unfair}.")
            else:
                right = "right" if self.prediction == self.output else "wrong"
                lines.append(f"It prints: {self.output}\nThe prediction was {right}: {shown(self.prediction, 200)}")
        return "\n".join(lines)

    def apply(self, action: str) -> None:
        if self.current_player is None:
            raise IllegalAction(action)
        if self.current_player == PREDICTOR:
            self.prediction = action.strip()
            self.current_player = None
            return
        self.program = action.replace("\r\n", "\n")
        self.output, self.unfair = judge_program(self.program, self.judge, self.max_program, self.max_output)
        self.current_player = None if self.unfair else PREDICTOR

    def returns(self) -> list[float]:
        if self.current_player is not None:
            return [0.0, 0.0]
        return [-1.0, 1.0] if self.unfair or self.prediction == self.output else [1.0, -1.0]

    def reward_terms(self, player: int) -> dict[str, float]:
        own = self.returns()[player]
        return {"prediction": 0.0 if self.unfair else own, "program": own if self.unfair else 0.0}

    def info(self, player: int) -> dict[str, Any]:
        if self.current_player is not None:
            return {}
        prediction = None if self.prediction is None else self.prediction[:200]
        return {"output": self.output, "prediction": prediction, "unfair": self.unfair}

    def serialize(self) -> bytes:
        settings = self.max_output, self.max_program, *astuple(self.judge)
        seen = self.idea, self.program, self.output, self.unfair, self.prediction, self.current_player
        return json.dumps([settings, seen]).encode()

    @staticmethod
    def deserialize(data: bytes) -> PredictionGame:
        settings, seen = json.loads(data)
        game = PredictionGame(*settings)
        game.idea, game.program, game.output, game.unfair, game.prediction, game.current_player = seen
        return game
