"""The Password Game over text: one player; rules appear one by one or all at once."""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame
from llm_gym.games.password.rules import RULES, Secrets, check, draw_secrets, rule_texts
from llm_gym.games.password.solver import sampler, solver

WEIGHTS = {"rules": 1.0, "length": 0.01, "progress": 0.0, "bonus": 0.0}
RULES_FOR_BONUS = 5
RULES_TEXT = {
    "progressive": "Reply with a password alone. It must keep every rule shown; once it does, the next rule appears.",
    "all": "Reply with a password alone. It must keep every rule.",
}


class PasswordGame(TextGame):
    """The Password Game, ``llmgym/PasswordGame-v0``: a password that keeps up to 26 rules at once.

    ## Observation
    The rules shown so far and, once there was a password, whether it keeps each of them::

        Turn 3 of 30.
        0 ok: at least 5 characters
        1 ok: a number
        2 failed: an uppercase letter
        Your last password, 6 characters: abc123

    In mode ``progressive`` the first turn shows rule 0, and one more rule appears each time that a password keeps all
    rules shown. In mode ``all`` every rule is shown from the start. What is random in an episode (captcha, Wordle
    answer, moon phase, country, the two letters to sacrifice, colour) is part of its rule's text, and all rules can
    always hold together. In the last password, characters that do not print appear as U+FFFD.

    ## Action
    The password, any string: by default (``plain``) the whole reply without its ``<think>`` block and outer
    whitespace. A password with more than ``max_length`` characters fails every rule.

    ## Reward
    The weighted sum of four terms. ``rules``, at the end: the number of rules shown that the last password keeps.
    ``length``, at the end: minus the number of characters of the last password, ``max_length`` at most. ``progress``: 1
    for each rule when it is first kept. ``bonus``: 1 when a password first keeps 5 or more rules. A rule counts for
    passwords given while it was shown.

    ``info`` has ``rules_shown``, ``rules_satisfied`` (how many of them the last password keeps), ``rules_kept`` (true
    or false for each rule of the game) and ``rules_failed`` (the numbers of rules that were shown and not kept). Before
    the first password no rule is satisfied and none failed.

    ## Start and end
    The episode ends ``solved`` when all ``num_rules`` rules are kept, and ``failed`` after ``max_turns`` passwords.
    Mode ``progressive`` needs at least ``num_rules`` turns.

    ## Arguments
    ``num_rules``: how many rules the game has, 1 to 26, in their order. ``mode``: ``progressive`` or ``all``.
    ``max_turns``: passwords per episode (1 makes mode ``all`` a single-turn task). ``weights``: replaces some of
    ``{"rules": 1.0, "length": 0.01, "progress": 0.0, "bonus": 0.0}``; the usual shaping is ``{"rules": 0.0,
    "progress": 1.0, "bonus": 10.0}``. ``max_length``: see above.

    ## Version history
    v0: first version.
    """

    action_format = "plain"
    example = "abc"
    players = {"solver": solver, "sampler": sampler}

    def __init__(
        self,
        num_rules: int = len(RULES),
        mode: str = "progressive",
        max_turns: int = 30,
        weights: dict[str, float] | None = None,
        max_length: int = 500,
    ) -> None:
        if type(num_rules) is not int or not 1 <= num_rules <= len(RULES):
            raise ValueError(f"num_rules must be 1 to {len(RULES)}, not {num_rules!r}")
        if mode not in RULES_TEXT:
            raise ValueError(f"mode must be one of {', '.join(RULES_TEXT)}, not {mode!r}")
        for name, limit in (("max_turns", max_turns), ("max_length", max_length)):
            if type(limit) is not int or limit < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {limit!r}")
        self.weights = {**WEIGHTS, **(weights or {})}
        for name, weight in self.weights.items():
            if name not in WEIGHTS or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise ValueError(f"weights must give {', '.join(WEIGHTS)} finite numbers, not {name!r}: {weight!r}")
        self.num_rules, self.mode = num_rules, mode
        self.max_turns, self.max_length = max_turns, max_length
        self.rules = f"{RULES_TEXT[mode]} It has at most {max_length} characters; shorter is better."
        self.dense_reward = bool(self.weights["progress"] or self.weights["bonus"])
        most = {"rules": num_rules, "length": -max_length, "progress": num_rules, "bonus": num_rules >= RULES_FOR_BONUS}
        extremes = [self.weights[name] * count for name, count in most.items()]
        self.reward_range = sum(min(e, 0.0) for e in extremes), sum(max(e, 0.0) for e in extremes)

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.secrets = draw_secrets(rng)
        self.shown = 1 if self.mode == "progressive" else self.num_rules
        self.texts = rule_texts(self.secrets, end=self.shown)
        self.password: str | None = None
        self.kept: list[bool] = []  # rule by rule, whether the last password keeps it
        self.ever_kept: set[int] = set()  # rules that some password kept while they were shown
        self.most_kept = 0
        self.turns = 0
        self.current_player: int | None = 0

    def observe(self, player: int) -> str:
        marks = [" ok" if kept else " failed" for kept in self.kept] or [""] * self.shown
        lines = [f"{i}{mark}: {text}" for i, (mark, text) in enumerate(zip(marks, self.texts))]
        lines.insert(0, f"Turn {self.turns + (self.current_player is not None)} of {self.max_turns}.")
        if self.password is not None:
            seen = "".join(char if char.isprintable() else "\ufffd" for char in self.password[: self.max_length])
            cut = " (too long, cut here)" if len(self.password) > self.max_length else ""
            lines.append(f"Your last password, {len(self.password)} characters: {seen}{cut}")
        return "\n".join(lines)

    def apply(self, action: str) -> None:
        if self.current_player is None:
            raise IllegalAction(action)
        self.password = action
        self.turns += 1
        self.kept = self._judge(action)
        self.ever_kept.update(i for i, kept in enumerate(self.kept) if kept)
        self.most_kept = max(self.most_kept, sum(self.kept))
        if self.solved or self.turns == self.max_turns:
            self.current_player = None
        elif all(self.kept):
            self.texts += rule_texts(self.secrets, self.shown, self.shown + 1)
            self.shown += 1
            self.kept = self._judge(action)

    def _judge(self, password: str) -> list[bool]:
        if len(password) > self.max_length:
            return [False] * self.shown
        return check(password, self.secrets, self.shown)

    @property
    def solved(self) -> bool:
        return len(self.kept) == self.num_rules and all(self.kept)

    def returns(self) -> list[float]:
        return [sum(self.reward_terms(0).values())]

    def reward_terms(self, player: int) -> dict[str, float]:
        over = self.current_player is None
        counts = {
            "rules": sum(self.kept) if over else 0,
            "length": -min(len(self.password or ""), self.max_length) if over else 0,
            "progress": len(self.ever_kept),
            "bonus": self.most_kept >= RULES_FOR_BONUS,
        }
        return {name: weight * counts[name] for name, weight in self.weights.items()}

    def outcome(self, player: int) -> str:
        return "solved" if self.solved else "failed"

    def info(self, player: int) -> dict[str, Any]:
        return {
            "rules_shown": self.shown,
            "rules_satisfied": sum(self.kept),
            "rules_failed": [i for i, kept in enumerate(self.kept) if not kept],
            "rules_kept": [i < len(self.kept) and self.kept[i] for i in range(self.num_rules)],
        }

    def serialize(self) -> bytes:
        settings = self.num_rules, self.mode, self.max_turns, self.weights, self.max_length
        progress = self.shown, self.password, self.kept, sorted(self.ever_kept), self.most_kept, self.turns
        return json.dumps([settings, astuple(self.secrets), progress, self.current_player]).encode()

    @staticmethod
    def deserialize(data: bytes) -> PasswordGame:
        settings, secrets, progress, current_player = json.loads(data)
        game = PasswordGame(*settings)
        game.secrets, game.current_player = Secrets(*secrets), current_player
        game.shown, game.password, game.kept, ever_kept, game.most_kept, game.turns = progress
        game.texts = rule_texts(game.secrets, end=game.shown)
        game.ever_kept = set(ever_kept)
        return game
