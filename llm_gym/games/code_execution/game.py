"""Code execution: one task, one program, rewarded for running and printing."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame
from llm_gym.games.code.drawing import SometimesBroken
from llm_gym.games.code.programs import MOST_SHOWN, Judge, shown
from llm_gym.games.code_execution.tasks import LEVELS, CodeTask, draw_task, reference
from llm_gym.sandbox import Isolation

NO_CODE = "no_code"
FAILED = {"syntax_error": -0.5}
"""Status of a program that did not run to its end -> the term ``ran``; -1 for any other status."""


class CodeExecution(TextGame):
    """Code execution, ``llmgym/CodeExecution-v0``: write a program that runs and prints something.

    ## Observation
    A task in one line, from random templates and values: some hundred thousand different tasks::

        Print the sum of the multiples of 7 below 210.

    After the program, how it ended and what it printed.

    ## Action
    A Python program: by default (``fence``) the last fenced Python block of the reply, else the last fenced block, else
    the whole reply. It runs in the sandbox, without input.

    ## Reward
    ``ran``: +0.5 if the program ran to its end; -0.5 if it does not compile (a program that raises ``SyntaxError``
    itself has run); -1.0 for any other end (an exception, a limit reached) and for no code at all. ``printed``: +0.5 if
    it ran and printed more than whitespace. With ``check_output`` also ``correct``: +1.0 if every line that it printed
    is what the task asks for, except for trailing whitespace.

    ``info`` has ``status`` (one of :class:`llm_gym.sandbox.Result`, ``no_code``, or None before the program),
    ``stdout`` and ``stderr``, the first 2,000 characters of each, and ``runs_with_output``.

    ## Start and end
    One turn. The outcome is ``solved`` if the program got the largest possible reward.

    ## Arguments
    ``difficulty``: ``easy``, ``medium``, ``hard`` or ``all``. ``check_output``: whether the output counts.
    ``timeout_s``: seconds that a program may take. ``isolation``: ``full`` (resetting the environment raises
    ``SandboxUnavailable`` where that is not available), ``container`` or ``best_effort``.

    ## Version history
    v0: first version.
    """

    action_format = "fence"
    example = 'print("Hello")'
    players = {"reference": reference, "sampler": SometimesBroken(reference, 0.6)}

    def __init__(
        self,
        difficulty: str = "all",
        check_output: bool = False,
        timeout_s: float = 2.0,
        isolation: Isolation = "full",
    ) -> None:
        if difficulty not in (*LEVELS, "all"):
            raise ValueError(f"difficulty must be one of {', '.join(LEVELS)}, all, not {difficulty!r}")
        if type(check_output) is not bool:
            raise ValueError(f"check_output must be true or false, not {check_output!r}")
        self.judge = Judge(timeout_s, isolation)
        self.difficulty, self.check_output = difficulty, check_output
        self.reward_range = (-1.0, 2.0 if check_output else 1.0)
        self.rules = (
            "Write a Python program that does the task. It gets no input, prints its result, and may take "
            f"{timeout_s:g} seconds."
        )

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.judge.start()
        self.task = draw_task(self.difficulty, rng)
        self.status: str | None = None
        self.stdout = self.stderr = ""
        self.printed = self.correct = False
        self.current_player: int | None = 0

    def observe(self, player: int) -> str:
        if self.status is None:
            return self.task.prompt
        lines = [self.task.prompt, f"Your program ended: {self.status}."]
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            if text:
                lines.append(f"{name}:\n{shown(text)}")
        return "\n".join(lines)

    def apply(self, action: str) -> None:
        if self.current_player is None:
            raise IllegalAction(action)
        self.current_player = None
        if not action.strip():
            self.status = NO_CODE
            return
        result = self.judge.run(action)
        self.status = result.status
        self.stdout, self.stderr = result.stdout[:MOST_SHOWN], result.stderr[:MOST_SHOWN]
        self.printed = result.ok and bool(result.stdout.strip())
        if self.check_output and self.printed:
            self.correct = _lines(result.stdout) == _lines(self.judge.run(self.task.program).stdout)

    def reward_terms(self, player: int) -> dict[str, float]:
        if self.status is None:
            return {"ran": 0.0, "printed": 0.0}
        terms = {"ran": 0.5 if self.status == "ok" else FAILED.get(self.status, -1.0), "printed": 0.5 * self.printed}
        return {**terms, "correct": float(self.correct)} if self.check_output else terms

    def returns(self) -> list[float]:
        return [sum(self.reward_terms(0).values())]

    def outcome(self, player: int) -> str:
        return "solved" if self.returns()[0] == self.reward_range[1] else "failed"

    def info(self, player: int) -> dict[str, Any]:
        seen = {"status": self.status, "stdout": self.stdout, "stderr": self.stderr}
        return seen | {"runs_with_output": bool(self.printed)}

    def serialize(self) -> bytes:
        settings = self.difficulty, self.check_output, *astuple(self.judge)
        seen = self.status, self.stdout, self.stderr, self.printed, self.correct, self.current_player
        return json.dumps([settings, astuple(self.task), seen]).encode()

    @staticmethod
    def deserialize(data: bytes) -> CodeExecution:
        settings, task, seen = json.loads(data)
        game = CodeExecution(*settings)
        game.task = CodeTask(*task)
        game.status, game.stdout, game.stderr, game.printed, game.correct, game.current_player = seen
        return game


def _lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.rstrip().splitlines()]
