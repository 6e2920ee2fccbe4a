"""Rows as tensors, with every shared prompt held once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from algos.data.rows import SCORES, Row

BEGINNING = 24
"""Prompts with this number of equal first tokens count as prompts of the same game."""


@dataclass
class Prompts:
    """Prompts as a common prefix and the distinct rests.

    The episodes of a group share their first prompt, and all prompts of a game share its rules; each is computed once.

    Attributes:
        prefix: The tokens that all prompts begin with, ``[prefix]``; each prompt has at least one more token.
        rests: The distinct rests, left-padded, ``[distinct, rest]``.
        rest_mask: True where ``rests`` is not padding.
        index: The rest of each prompt, as a row of ``rests``, ``[prompts]``.
    """

    prefix: Tensor
    rests: Tensor
    rest_mask: Tensor
    index: Tensor

    @staticmethod
    def of(prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Prompts:
        distinct = {tuple(prompt): 0 for prompt in prompts}
        for number, prompt in enumerate(distinct):
            distinct[prompt] = number
        shared = len(os.path.commonprefix(list(distinct)))
        shared = min(shared, min(map(len, distinct)) - 1)
        rests = [prompt[shared:] for prompt in distinct]
        width = max(map(len, rests))
        return Prompts(
            prefix=torch.tensor(next(iter(distinct))[:shared], dtype=torch.long, device=device),
            rests=torch.tensor([[0] * (width - len(r)) + list(r) for r in rests], device=device),
            rest_mask=torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rests], device=device),
            index=torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device),
        )


@dataclass
class Batch:
    """Rows as tensors: ``[rows, length]`` after the prompt, padded on the right with zeros and False.

    The fields are those of :class:`~algos.data.rows.Row`; an optional column that the rows lack is None.
    """

    prompts: Prompts
    ids: Tensor
    mask: Tensor
    action_mask: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    values: Tensor | None = None
    value_targets: Tensor | None = None
    tis_weights: Tensor | None = None
    engine_difference: Tensor | None = None

    @staticmethod
    def of(rows: Sequence[Row], device: torch.device | str = "cpu") -> Batch:
        length = max(len(row.ids) for row in rows)

        def pad(values: Sequence[list[Any]], fill: float | bool, dtype: torch.dtype) -> Tensor:
            return torch.tensor([v + [fill] * (length - len(v)) for v in values], dtype=dtype, device=device)

        real = torch.get_default_dtype()
        scores = {name: [getattr(row, name) for row in rows] for name in SCORES}
        return Batch(
            prompts=Prompts.of([row.prompt_ids for row in rows], device),
            ids=pad([row.ids for row in rows], 0, torch.long),
            mask=pad([[True] * len(row.ids) for row in rows], False, torch.bool),
            action_mask=pad([row.action_mask for row in rows], False, torch.bool),
            old_logprobs=pad([row.old_logprobs for row in rows], 0.0, real),
            advantages=pad([row.advantages for row in rows], 0.0, real),
            weights=torch.tensor([row.weight for row in rows], dtype=real, device=device),
            **{name: pad(columns, 0.0, real) for name, columns in scores.items() if columns[0]},
        )

    def at_actions(self, column: Tensor | None) -> Tensor:
        """The entries of a ``[rows, length]`` column at action tokens, row by row: ``[tokens]``."""
        if column is None:
            raise ValueError("the rows of this batch have no such column")
        return column[self.action_mask]

    def turns(self) -> tuple[Tensor, int]:
        """The turn of each action token as a number from 0, ``[tokens]``, and the number of turns.

        The environment's tokens separate two replies of a row.
        """
        first = self.action_mask.clone()
        first[:, 1:] &= ~self.action_mask[:, :-1]
        number = first.flatten().cumsum(0).view_as(first)[self.action_mask] - 1
        return number, int(first.sum())

    def action_weights(self) -> Tensor:
        """The loss weight of each action token, ``[tokens]``."""
        return self.weights[:, None].expand_as(self.action_mask)[self.action_mask]


def alike(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The indices of ``prompts``, grouped by equal first tokens, each group in the given order.

    Prompts of different games have no common prefix, so a batch of several games could share nothing.

    Args:
        size: Prompts run at a time. Groups smaller than this and than 16 are joined into one group, the last.
    """
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[tuple(prompt[:BEGINNING])].append(index)
    large = [group for group in groups.values() if len(group) >= min(size, 16)]
    rest = sorted({*range(len(prompts))}.difference(*large))
    return large + [rest] * bool(rest)


def merge_equal(rows: Sequence[Row]) -> list[Row]:
    """Merges rows of equal tokens, old log-probabilities and advantage signs: summed weight, mean advantage.

    A clipped loss is linear in the advantage on either side of zero, so the gradient stays the same. In a small game
    most rows of a batch occur several times. Other columns are the first row's: they must depend on the tokens alone.
    """
    merged: dict[object, Row] = {}
    for row in rows:
        signs = tuple(a >= 0 for a in row.advantages)
        sampled_at = tuple(round(p, 4) for p in row.old_logprobs)
        key = tuple(row.prompt_ids), tuple(row.ids), tuple(row.action_mask), sampled_at, signs
        if key not in merged:
            merged[key] = replace(row)
            continue
        same = merged[key]
        total = same.weight + row.weight
        share = row.weight / total if total else 0.0
        same.advantages = [a + share * (b - a) for a, b in zip(same.advantages, row.advantages, strict=True)]
        same.weight = total
    return list(merged.values())


def micro_batches(
    rows: Sequence[Row], size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[Row], Batch]]:
    """Divides rows into batches of at most ``size``, by game, length and prompt, so that there is little padding."""
    for game in alike([row.prompt_ids for row in rows], size):
        ordered = sorted((rows[i] for i in game), key=lambda row: (len(row.ids), len(row.prompt_ids), row.prompt_ids))
        for start in range(0, len(ordered), size):
            part = ordered[start : start + size]
            yield part, Batch.of(part, device)


class Scores(NamedTuple):
    """Scores of sampled tokens under models that stay fixed during an update, ``[tokens]`` each; None: not computed."""

    trainer_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    values: Tensor | None = None


def score_rows(
    rows: Sequence[Row], score: Callable[[Batch], Scores], size: int, device: torch.device | str = "cpu"
) -> list[Scores]:
    """The scores of each row's action tokens, in the order of ``rows``; rows of equal tokens are run once.

    Args:
        score: A batch -> the scores of its action tokens, row by row.
        size: Rows at a time.
    """
    same: defaultdict[object, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        same[tuple(row.prompt_ids), tuple(row.ids), tuple(row.action_mask)].append(number)
    alone = {id(rows[numbers[0]]): numbers for numbers in same.values()}
    found: dict[int, Scores] = {}
    with torch.no_grad():
        for part, batch in micro_batches([rows[numbers[0]] for numbers in same.values()], size, device):
            counts = [row.action_tokens for row in part]
            columns = [[None] * len(part) if c is None else c.split(counts) for c in score(batch)]
            for row, *own in zip(part, *columns, strict=True):
                found |= dict.fromkeys(alone[id(row)], Scores(*own))
    return [found[number] for number in range(len(rows))]
