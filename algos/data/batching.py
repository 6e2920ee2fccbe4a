"""Rows as tensors, with every shared prompt held once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from algos.data.rows import Row

BEGINNING = 24
"""Prompts that have so many tokens in common are taken for the same game's."""


@dataclass
class Prompts:
    """Prompts as a common prefix and the distinct rests.

    In a group all episodes share their prompt, and all prompts of a game share its rules: each is computed once.

    Attributes:
        prefix: What all prompts begin with, ``[prefix]``; at least one token of each prompt is left for its rest.
        rests: The distinct rests, left-padded, ``[distinct, rest]``.
        rest_mask: True where ``rests`` is not padding.
        index: Which rest each prompt has, ``[prompts]``.
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
    """Rows as tensors: ``[rows, length]`` after the prompt, padded on the right with zeros and False."""

    prompts: Prompts
    ids: Tensor
    mask: Tensor
    action_mask: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(rows: Sequence[Row], device: torch.device | str = "cpu") -> Batch:
        length = max(len(row.ids) for row in rows)

        def pad(values: Sequence[list[Any]], fill: float | bool, dtype: torch.dtype) -> Tensor:
            return torch.tensor([v + [fill] * (length - len(v)) for v in values], dtype=dtype, device=device)

        real = torch.get_default_dtype()
        return Batch(
            prompts=Prompts.of([row.prompt_ids for row in rows], device),
            ids=pad([row.ids for row in rows], 0, torch.long),
            mask=pad([[True] * len(row.ids) for row in rows], False, torch.bool),
            action_mask=pad([row.action_mask for row in rows], False, torch.bool),
            old_logprobs=pad([row.old_logprobs for row in rows], 0.0, real),
            advantages=pad([row.advantages for row in rows], 0.0, real),
            weights=torch.tensor([row.weight for row in rows], dtype=real, device=device),
            columns={name: pad([row.columns[name] for row in rows], 0.0, real) for name in rows[0].columns},
        )

    def actions(self, name: str) -> Tensor:
        """The entries of a ``[rows, length]`` field or column at action tokens, row by row: ``[tokens]``."""
        values = self.columns[name] if name in self.columns else getattr(self, name)
        return values[self.action_mask]

    def turns(self) -> tuple[Tensor, int]:
        """Which turn each action token belongs to, ``[tokens]``, and how many turns there are.

        Replies are apart: between two of a row stand the tokens that the environment said.
        """
        first = self.action_mask.clone()
        first[:, 1:] &= ~self.action_mask[:, :-1]
        number = first.flatten().cumsum(0).view_as(first)[self.action_mask] - 1
        return number, int(first.sum())

    def action_weights(self) -> Tensor:
        """The loss weight of each action token, ``[tokens]``."""
        return self.weights[:, None].expand_as(self.action_mask)[self.action_mask]


def alike(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The indices of ``prompts``, those that begin alike together, each in their order.

    Where several games are mixed, all prompts together begin with nothing in common, and nothing would be shared.

    Args:
        size: How many are run at a time. Beginnings of fewer prompts than that, and than 16, stay together: the last.
    """
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[tuple(prompt[:BEGINNING])].append(index)
    large = [group for group in groups.values() if len(group) >= min(size, 16)]
    rest = sorted({*range(len(prompts))}.difference(*large))
    return large + [rest] * bool(rest)


def merge_equal(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same tokens and advantages of the same sign as one, of their weight and mean advantage.

    A clipped loss is linear in the advantage on either side of zero, so the gradient is that of all of them. In a small
    game most rows of a batch are met several times. Columns are taken from the first: they must depend on tokens alone.
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
    """Cuts rows into batches of at most ``size``, like games, lengths and prompts together to waste little."""
    for game in alike([row.prompt_ids for row in rows], size):
        ordered = sorted((rows[i] for i in game), key=lambda row: (len(row.ids), len(row.prompt_ids), row.prompt_ids))
        for start in range(0, len(ordered), size):
            part = ordered[start : start + size]
            yield part, Batch.of(part, device)


def annotate(
    rows: Sequence[Row], columns: Callable[[Batch], dict[str, Tensor]], size: int, device: torch.device | str = "cpu"
) -> None:
    """Gives every row the columns that a model computes for its action tokens; rows of equal tokens are run once.

    Args:
        columns: A batch -> named values, ``[tokens]`` each.
        size: Rows at a time.
    """
    alike: defaultdict[object, list[Row]] = defaultdict(list)
    for row in rows:
        alike[tuple(row.prompt_ids), tuple(row.ids), tuple(row.action_mask)].append(row)
    with torch.no_grad():
        for part, batch in micro_batches([same[0] for same in alike.values()], size, device):
            counts = [row.action_tokens for row in part]
            for name, values in columns(batch).items():
                for row, own in zip(part, values.split(counts), strict=True):
                    row.columns[name] = row.spread(own.tolist())
    for first, *others in alike.values():
        for other in others:
            other.columns |= first.columns
