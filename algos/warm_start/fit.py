"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from algos.config.schema import SftSection
from algos.data.batching import micro_batches
from algos.data.rows import Row
from algos.maths.losses import token_weights
from algos.model.forward import Policy


def learning_rate(sft: SftSection, step: int) -> float:
    """A short linear warm-up to ``lr``, then linear to about 0."""
    warmup = max(1, sft.steps // 20)
    return sft.lr * min((step + 1) / warmup, (sft.steps - step) / (sft.steps - warmup + 1))


def draw_rows(rows: Sequence[Row], sft: SftSection, seed: int, step: int) -> list[Row]:
    """The rows of a step, drawn with replacement: the ``step``-th draw of one generator."""
    rng = np.random.default_rng(seed)
    for _ in range(step):
        rng.integers(len(rows), size=sft.batch)
    return [replace(rows[i]) for i in rng.integers(len(rows), size=sft.batch)]


def fit(model: torch.nn.Module, rows: list[Row], sft: SftSection, seed: int) -> Iterator[float]:
    """Trains ``model`` on ``rows`` in this process alone; yields each step's loss, in nats per token."""
    policy = Policy(model, temperature=1.0)
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=sft.lr, weight_decay=0.0, betas=(0.9, 0.99))
    model.train()
    for step in range(sft.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(sft, step)
        chosen = draw_rows(rows, sft, seed, step)
        counts = torch.tensor([row.action_tokens for row in chosen])
        weights = token_weights(counts, "token", float(counts.sum()), len(chosen), 0)
        for row, weight in zip(chosen, weights.tolist(), strict=True):
            row.weight = weight
        total = 0.0
        for _, batch in micro_batches(chosen, sft.micro_batch, device):
            loss = -(policy(batch).logprobs * batch.action_weights()).sum()
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield total
