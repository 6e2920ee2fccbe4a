"""Rows: the token sequences that are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from algos.data.episodes import Turn


@dataclass
class Row:
    """One sequence to train on: a prompt and what follows it.

    Attributes:
        prompt_ids: Tokens before the first action token.
        ids: All tokens after, actions and what the environment said between them.
        action_mask: Which of ``ids`` were sampled; from lengths, never from token values.
        old_logprobs: Log-probabilities when sampled; 0 where not sampled.
        advantages: One a token; 0 where not sampled.
        weight: The weight of each action token in the loss.
        columns: More numbers, one a token, 0 where not sampled, such as a critic's ``values``.
    """

    prompt_ids: list[int]
    ids: list[int]
    action_mask: list[bool]
    old_logprobs: list[float]
    advantages: list[float]
    weight: float = 1.0
    columns: dict[str, list[float]] = field(default_factory=dict)

    @property
    def action_tokens(self) -> int:
        return sum(self.action_mask)

    def spread(self, values: Iterable[float]) -> list[float]:
        """``values``, one an action token, as one number a token: 0 where not sampled."""
        each = iter(values)
        return [next(each) if taken else 0.0 for taken in self.action_mask]


def to_rows(turns: list[Turn], advantages: list[list[float]]) -> list[Row]:
    """Merges turns into rows while each next prompt exactly extends all tokens so far; else a new row starts.

    A merged row gives the same gradient as its turns apart, for a fraction of the tokens.

    Args:
        turns: One player's turns, in order.
        advantages: One list a turn, one number an action token.
    """
    rows: list[Row] = []
    so_far: list[int] = []
    for turn, advantage in zip(turns, advantages, strict=True):
        n = len(turn.action_ids)
        extends = bool(rows) and len(turn.prompt_ids) > len(so_far) and turn.prompt_ids[: len(so_far)] == so_far
        if extends:
            row, between = rows[-1], turn.prompt_ids[len(so_far) :]
        else:
            row, between = Row(turn.prompt_ids, [], [], [], []), []
            rows.append(row)
        row.ids += between + turn.action_ids
        row.action_mask += [False] * len(between) + [True] * n
        row.old_logprobs += [0.0] * len(between) + turn.logprobs
        row.advantages += [0.0] * len(between) + advantage
        so_far = turn.prompt_ids + turn.action_ids
    return rows
