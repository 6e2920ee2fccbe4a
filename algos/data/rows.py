"""Rows: the token sequences to train on, made from turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from algos.data.episodes import Turn

SCORES = ("values", "value_targets", "tis_weights", "engine_difference")
"""Optional columns: a row has those that its turns have."""


@dataclass
class Row:
    """One sequence to train on: a prompt and what follows it.

    Columns have one number per token of ``ids``, 0 at tokens that were not sampled. Absent optional columns are empty.

    Attributes:
        prompt_ids: Tokens before the first action token.
        ids: All later tokens: actions, and the environment's messages between them.
        action_mask: Which of ``ids`` were sampled; computed from lengths, never from token values.
        old_logprobs: Log-probabilities before the update.
        advantages: One per token.
        weight: The weight of each action token in the loss.
        values: The critic's estimates before the update (optional).
        value_targets: Targets of the critic's estimates (optional).
        tis_weights: Truncated importance weights between engine and trainer (optional).
        engine_difference: |log p of the trainer - log p of the engine| (optional).
    """

    prompt_ids: list[int]
    ids: list[int]
    action_mask: list[bool]
    old_logprobs: list[float]
    advantages: list[float]
    weight: float = 1.0
    values: list[float] = field(default_factory=list)
    value_targets: list[float] = field(default_factory=list)
    tis_weights: list[float] = field(default_factory=list)
    engine_difference: list[float] = field(default_factory=list)

    @property
    def action_tokens(self) -> int:
        return sum(self.action_mask)

    def spread(self, values: Iterable[float]) -> list[float]:
        """``values``, one per action token, as a column: 0 at tokens that were not sampled."""
        each = iter(values)
        return [next(each) if sampled else 0.0 for sampled in self.action_mask]


def to_rows(turns: Sequence[Turn]) -> list[Row]:
    """Merges turns into a row while each prompt exactly extends all tokens before it; otherwise a new row starts.

    A merged row gives the same gradient as separate turns, with a fraction of the tokens.

    Args:
        turns: One player's turns, in order; their columns become the columns of the rows.
    """
    rows: list[Row] = []
    so_far: list[int] = []
    for turn in turns:
        n = len(turn.action_ids)
        extends = bool(rows) and len(turn.prompt_ids) > len(so_far) and turn.prompt_ids[: len(so_far)] == so_far
        if not extends:
            rows.append(Row(turn.prompt_ids, [], [], [], []))
        row, between = rows[-1], turn.prompt_ids[len(so_far) :] if extends else []
        zeros = [0.0] * len(between)
        row.ids += between + turn.action_ids
        row.action_mask += [False] * len(between) + [True] * n
        row.old_logprobs += zeros + turn.old_logprobs
        row.advantages += zeros + (turn.advantages or [0.0] * n)
        for name in SCORES:
            if column := getattr(turn, name):
                getattr(row, name).extend(zeros + column)
        so_far = turn.prompt_ids + turn.action_ids
    return rows
