"""Log-probabilities of tokens without a [tokens, vocabulary] tensor in fp32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 2048
"""Tokens at a time: with a vocabulary of 151,936, 2048 rows of fp32 logits take 1.2 GB."""


def token_logprobs(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], temperature: float, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target under softmax(head(hidden) / temperature), and that distribution's entropy.

    Args:
        hidden: Last hidden states, ``[tokens, width]``.
        targets: The token that followed each, ``[tokens]``.
        head: Hidden states to logits, ``[n, width] -> [n, vocabulary]``.
        temperature: The one sampled at; > 0.

    Returns:
        Log-probabilities and entropies (in nats), both ``[tokens]``, fp32 (float64 for a float64 model).
    """

    def one_chunk(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h)
        logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
        log_p = torch.log_softmax(logits, dim=-1)
        return log_p.gather(-1, t[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)

    if len(hidden) <= chunk:
        return one_chunk(hidden, targets)
    # Checkpointing recomputes a chunk's logits in the backward pass, so only one chunk of them is ever held.
    parts = [
        checkpoint(one_chunk, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat([p for p, _ in parts]), torch.cat([e for _, e in parts])
