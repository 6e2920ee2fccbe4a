"""Losses per token, and the weights that make a sum of them a loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token", "sequence", "constant"]


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """The clipped surrogate of PPO (arXiv 1707.06347, equation 7), per token, to be minimised.

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(logprobs - old_logprobs). A larger ``clip_high`` is
    clip-higher of DAPO (arXiv 2503.14476, equation 10): it leaves unlikely tokens room to grow.

    Args:
        logprobs: Log-probabilities under the policy being trained, any shape.
        old_logprobs: The same tokens' log-probabilities when they were sampled.
        advantages: The same shape.

    Returns:
        One loss a token, the same shape.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """A per-token loss whose gradient is that of KL(policy || reference) on tokens that the policy sampled.

    k2 = (log p - log q)^2 / 2. Its expected gradient is that of the divergence; the gradient of k3 is not
    (http://joschu.net/blog/kl-approx.html gives the values; see :func:`kl_estimate`).
    """
    return 0.5 * (logprobs - ref_logprobs).square()


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = q/p - log(q/p) - 1, per token: unbiased for KL(policy || reference), never negative, of low variance."""
    log_ratio = ref_logprobs - logprobs
    return torch.exp(log_ratio) - log_ratio - 1.0


def token_weights(
    token_counts: Tensor, aggregation: Aggregation, total_tokens: float, total_rows: float, max_new_tokens: int
) -> Tensor:
    """The weight of each token of a row, so that the loss is one weighted sum over the whole global batch.

    ``token``: 1 / tokens in the batch (DAPO, arXiv 2503.14476, equation 8).
    ``sequence``: 1 / (rows in the batch * tokens of this row) (GRPO, arXiv 2402.03300, equation 3).
    ``constant``: 1 / (rows in the batch * max_new_tokens) (Dr. GRPO, arXiv 2503.20783): no length bias.

    The totals are counted over all processes before the first micro-batch: how a batch is cut never matters.

    Args:
        token_counts: Action tokens of each row, ``[rows]``.
        total_tokens: Action tokens of the global batch.
        total_rows: Rows of the global batch.

    Returns:
        ``[rows]``: the weight of every action token of that row.
    """
    if aggregation == "token":
        return torch.full_like(token_counts, 1.0 / total_tokens, dtype=torch.get_default_dtype())
    if aggregation == "sequence":
        return 1.0 / (total_rows * token_counts)
    return torch.full_like(token_counts, 1.0 / (total_rows * max_new_tokens), dtype=torch.get_default_dtype())
