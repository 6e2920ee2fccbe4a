"""Log-probabilities of tokens without a [tokens, vocabulary] tensor in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK = 2048
"""Tokens at a time: with a vocabulary of 151,936, 2048 rows of fp32 logits take 1.2 GB."""


ReferenceHidden = tuple[Tensor, Tensor]
"""Another model's hidden states for the same tokens, ``[tokens, width]``, and its output weights."""

Direction = Literal["reverse", "forward"]
"""Which divergence from a reference: KL(policy || reference) or KL(reference || policy)."""


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    temperature: float,
    reference: ReferenceHidden | None = None,
    chunk: int = CHUNK,
    direction: Direction = "reverse",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probability of each target under softmax(head(hidden) / temperature), and that distribution's entropy.

    With a reference also the divergence of the two distributions at each token, exact over the vocabulary: of the same
    mean as an estimate from the sampled token alone, and without its variance (arXiv 2504.10637). Reverse, KL(policy ||
    reference), lets the policy give up what it takes for bad; forward, KL(reference || policy), keeps every token that
    the reference would say within reach, so that the policy goes on trying it.

    Args:
        hidden: Last hidden states, ``[tokens, width]``.
        targets: The token that followed each, ``[tokens]``.
        head: Hidden states to logits, ``[n, width] -> [n, vocabulary]``.
        temperature: The one sampled at; > 0. The reference's too.

    Returns:
        Log-probabilities, entropies and divergences (in nats; None without a reference), all ``[tokens]``, fp32
        (float64 for a float64 model).
    """

    def log_softmax(logits: Tensor) -> Tensor:
        return torch.log_softmax((logits if logits.dtype == torch.float64 else logits.float()) / temperature, dim=-1)

    def one_chunk(h: Tensor, t: Tensor, other: Tensor | None) -> tuple[Tensor, ...]:
        log_p = log_softmax(head(h))
        p = log_p.exp()
        found = log_p.gather(-1, t[:, None])[:, 0], -(p * log_p).sum(-1)
        if other is None or reference is None:
            return found
        log_q = log_softmax(functional.linear(other, reference[1]))
        gap = log_p - log_q if direction == "reverse" else log_q - log_p
        return *found, ((p if direction == "reverse" else log_q.exp()) * gap).sum(-1)

    others: Sequence[Tensor | None] = (
        [None] * (len(hidden) // chunk + 1) if reference is None else reference[0].split(chunk)
    )
    if len(hidden) <= chunk:
        logprobs, entropy, *kl = one_chunk(hidden, targets, others[0])
        return logprobs, entropy, kl[0] if kl else None
    # Checkpointing recomputes a chunk's logits in the backward pass, so only one chunk of them is ever held.
    parts = [
        checkpoint(one_chunk, *each, use_reentrant=False)
        for each in zip(hidden.split(chunk), targets.split(chunk), others, strict=False)
    ]
    logprobs, entropy, *kl = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprobs, entropy, kl[0] if kl else None
