"""Rows as tensors, with every shared prompt held once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from algos.rollout.records import Row


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
        )

    def actions(self, name: str) -> Tensor:
        """The entries of a ``[rows, length]`` field at action tokens, row by row: ``[tokens]``."""
        return getattr(self, name)[self.action_mask]

    def action_weights(self) -> Tensor:
        """The loss weight of each action token, ``[tokens]``."""
        return self.weights[:, None].expand_as(self.action_mask)[self.action_mask]


def merge_equal(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same tokens and advantages of the same sign as one, of their weight and mean advantage.

    A clipped loss is linear in the advantage on either side of zero, so the gradient is that of all of them. In a small
    game most rows of a batch are met several times.
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


def micro_batches(rows: Sequence[Row], size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Cuts rows into batches of at most ``size``, like lengths and prompts together to waste little padding."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), len(row.prompt_ids), row.prompt_ids))
    for start in range(0, len(ordered), size):
        yield Batch.of(ordered[start : start + size], device)
