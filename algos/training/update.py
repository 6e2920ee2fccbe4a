"""The optimizer steps on a step's rows, the same for every algorithm; the algorithm defines the loss."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from algos.config.schema import OptimSection, PolicyUpdateSection
from algos.data.batching import Batch, merge_equal, micro_batches
from algos.data.rows import SCORES, Row
from algos.maths.losses import token_weights

Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
"""A batch -> its loss for each action token, ``[tokens]``, and metrics to report, ``[tokens]`` each."""

IDLE = Row([0], [0], [True], [0.0], [0.0], 0.0, **{name: [0.0] for name in SCORES})
"""A process without rows runs this, so that all processes make the same collective calls."""
AT_FIRST = ("policy/engine_difference",)
"""Metrics of the sampling policy: only the minibatch before the first optimizer step counts."""


def update(
    rows: Sequence[Row],
    loss: Loss,
    policy: torch.nn.Module,
    optimizer: Any,
    accelerator: Accelerator,
    optim: OptimSection,
    settings: PolicyUpdateSection,
    rng: np.random.Generator | None,
    *,
    max_new_tokens: int = 1,
    keep_prompts: bool = False,
    merge: bool = True,
) -> dict[str, float]:
    """Takes ``epochs`` x ``minibatches`` optimizer steps on this process's ``rows``.

    A minibatch's loss is one weighted sum over the tokens of all processes, the weights counted before the first
    micro-batch: micro-batch size and number of processes change time and memory, never the gradient.

    Args:
        optim: Only ``micro_batch`` and ``max_grad_norm`` are used.
        settings: Only ``epochs``, ``minibatches`` and ``aggregation`` are used.
        rng: Shuffles the rows; each process has its own. None: keep the order.
        max_new_tokens: The constant of ``aggregation: constant``.
        keep_prompts: Shuffle prompts, not rows: the rows of a prompt stay together, in one minibatch or two.
        merge: Run rows of equal tokens once; incorrect if their other columns differ.

    Returns:
        The metrics of ``loss`` as means over tokens, weighted as in the loss; ``losses/total``; ``optim/grad_norm``.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    totals, norms, skipped = [0.0], [0.0], 0
    for _ in range(settings.epochs):
        order = list(range(len(rows))) if rng is None else shuffled(rows, rng, keep_prompts)
        for part in np.array_split(order, settings.minibatches):
            chosen = [rows[i] for i in part]
            counts = torch.tensor([row.action_tokens for row in chosen], dtype=torch.long)
            tokens, sequences = _summed([float(counts.sum()), float(len(chosen))], accelerator)
            if tokens == 0:  # no process has a row
                continue
            for row, weight in zip(
                chosen,
                token_weights(counts, settings.aggregation, tokens, sequences, max_new_tokens).tolist(),
                strict=True,
            ):
                row.weight = weight
            batches = _batches(merge_equal(chosen) if merge else chosen, optim.micro_batch, accelerator)
            total = 0.0
            for number, batch in enumerate(batches, 1):
                accelerator.sync_gradients = number == len(batches)  # DeepSpeed steps in its last backward pass
                with contextlib.nullcontext() if number == len(batches) else accelerator.no_sync(policy):
                    with accelerator.autocast():  # also the reference's pass, so that both round alike
                        per_token, token_metrics = loss(batch)
                    weights = batch.action_weights()
                    part_loss = (per_token * weights).sum()
                    # DistributedDataParallel averages gradients over processes; the loss is a sum.
                    accelerator.backward(part_loss * accelerator.num_processes)
                total += part_loss.item()
                for name, value in token_metrics.items():
                    if name not in AT_FIRST or len(totals) == 1:
                        sums[name] += float((value.detach().double() * weights).sum())
                sums["weight"] += float(weights.sum())
                sums["weight at first"] += float(weights.sum()) if len(totals) == 1 else 0.0
            norm = float(accelerator.clip_grad_norm_(policy.parameters(), optim.max_grad_norm))
            optimizer.step()
            optimizer.zero_grad()
            totals.append(total)
            if optimizer.step_was_skipped:  # fp16: the scaled gradients overflowed; the scale is lowered
                skipped += 1
            else:
                norms.append(norm)
    names = sorted(sums)
    sums = defaultdict(float, zip(names, _summed([sums[name] for name in names], accelerator), strict=True))
    metrics = {
        name: sums[name] / max(sums["weight at first" if name in AT_FIRST else "weight"], 1e-9)
        for name in names
        if not name.startswith("weight")
    }
    if squares := metrics.pop("policy/importance_squared", 0.0):
        metrics["policy/effective_sample_size"] = metrics["policy/importance"] ** 2 / squares  # Kish's, as a share
    if accelerator.mixed_precision == "fp16":
        metrics["optim/skipped_steps"] = float(skipped)
    return metrics | {"losses/total": _summed([totals[-1]], accelerator)[0], "optim/grad_norm": norms[-1]}


def shuffled(rows: Sequence[Row], rng: np.random.Generator, keep_prompts: bool) -> list[int]:
    """The indices of ``rows`` in random order; with ``keep_prompts`` rows with equal prompts are adjacent."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[tuple(row.prompt_ids) if keep_prompts else index].append(index)
    together = list(groups.values())
    return [index for group in rng.permutation(len(together)) for index in together[group]]


def _batches(rows: Sequence[Row], size: int, accelerator: Accelerator) -> list[Batch]:
    """Micro-batches, equally many on each process: all processes gather sharded weights together."""
    batches = [batch for _, batch in micro_batches(rows, size, accelerator.device)]
    most = len(batches)
    if accelerator.num_processes > 1:
        most = int(accelerator.gather(torch.tensor([most], device=accelerator.device)).max())
    return batches + [Batch.of([IDLE], accelerator.device) for _ in range(most - len(batches))]


def _summed(values: list[float], accelerator: Accelerator) -> list[float]:
    if accelerator.num_processes == 1 or not values:
        return values
    return accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum").tolist()
