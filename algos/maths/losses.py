"""Losses per token, and the weights that make a sum of them a loss."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token", "sequence", "constant"]


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """The clipped surrogate of PPO (arXiv 1707.06347, equation 7), per token, to be minimised.

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). A larger ``clip_high`` is clip-higher of DAPO (arXiv 2503.14476,
    equation 10): it lets unlikely tokens become more likely.

    Args:
        log_ratio: log r, any shape: ``logprobs - old_logprobs`` (PPO, GRPO), or :func:`sequence_log_ratio` (GSPO).
        advantages: The same shape.

    Returns:
        One loss a token, the same shape.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def sequence_log_ratio(logprobs: Tensor, old_logprobs: Tensor, turn: Tensor, turns: int) -> Tensor:
    """The log of GSPO's importance ratio (arXiv 2507.18071), one a turn, given for each token of the turn.

    log s_i = mean over the turn's tokens of (logprobs - old_logprobs), equation 7. In the form of GSPO-token, equation
    14, s_{i,t} = sg[s_i] pi_t / sg[pi_t]: the value is the turn's, and the gradient flows only through the token's own
    log-probability, so that advantages may differ within a turn. All tokens of a turn must be in the same call.

    Args:
        logprobs: Log-probabilities under the policy being trained, ``[tokens]``.
        old_logprobs: The same tokens' log-probabilities when they were sampled, ``[tokens]``.
        turn: The index of each token's turn, ``[tokens]``, int64, 0 to turns - 1.
        turns: The number of turns; a turn may have no tokens.

    Returns:
        ``[tokens]``, for :func:`clipped_surrogate`.
    """
    log_ratio = (logprobs - old_logprobs).detach()
    sums = log_ratio.new_zeros(turns).index_add(0, turn, log_ratio)
    mean = sums / torch.bincount(turn, minlength=turns)
    return mean[turn] + (logprobs - logprobs.detach())


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log pi, per token: its gradient is that of REINFORCE (Williams 1992, https://doi.org/10.1007/BF00992696).

    Args:
        logprobs: Log-probabilities of sampled tokens under the policy that sampled them, any shape.
        advantages: The same shape.

    Returns:
        One loss a token, the same shape, to be minimised.
    """
    return -logprobs * advantages


def clipped_value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip: float | None) -> Tensor:
    """The critic's loss, per step: half the squared error of the estimate or of its clipped form, the larger of both.

    0.5 max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2), as in PPO2 of OpenAI Baselines
    (https://github.com/openai/baselines): a trust region for the value like PPO's for the ratio.

    Args:
        values: V, the critic's estimates, any shape.
        old_values: V_old, its estimates when the advantages were computed, the same shape.
        targets: G, see :func:`algos.maths.advantages.gae`, the same shape.
        clip: The largest change of an estimate, in units of return, > 0; None: the plain squared error.

    Returns:
        One loss a step, the same shape.
    """
    error = (values - targets).square()
    if clip is not None:
        held = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (held - targets).square())
    return 0.5 * error


def importance_weights(trainer_logprobs: Tensor, sampler_logprobs: Tensor, cap: float = 2.0) -> Tensor:
    """Truncated importance sampling (Ionides 2008, https://doi.org/10.1198/106186008X320456), per token.

    w = min(p_trainer / p_sampler, cap). A rollout engine uses other kernels or another precision than the trainer; the
    weight w corrects a token's loss for that difference. The cap bounds the variance.

    Args:
        trainer_logprobs: Log-probabilities of the trainer's forward pass before its update, any shape.
        sampler_logprobs: Log-probabilities of the engine that sampled, the same shape.
        cap: The largest weight, > 0.

    Returns:
        Weights, the same shape, without gradient.
    """
    return (trainer_logprobs - sampler_logprobs).detach().exp().clamp(max=cap)


class AdaptiveKL:
    """The coefficient of a KL penalty, adapted so that the divergence stays at a target.

    Proportional controller of Ziegler et al. (arXiv 1909.08593), section 2.2: e = clip(KL / target - 1, -0.2, 0.2),
    coef <- coef (1 + K e). K = steps / horizon, at most 1 (the paper has 0.1 an update).

    Args:
        coef: The initial coefficient.
        target: The target divergence, in nats.
        horizon: The number of steps (in the unit of :meth:`update`) that change the coefficient by at most a fifth.

    Raises:
        ValueError: A setting is not a positive number.
    """

    def __init__(self, coef: float, target: float, horizon: float) -> None:
        for name, value in (("coef", coef), ("target", target), ("horizon", horizon)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, not {value}")
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, measured_kl: float, steps: float) -> None:
        """Moves :attr:`coef` after ``steps`` steps at a divergence of ``measured_kl`` nats.

        With several processes pass the mean over all of them, so that the coefficient stays the same everywhere.

        Raises:
            ValueError: ``measured_kl`` is NaN.
        """
        if math.isnan(measured_kl):
            raise ValueError("the measured divergence is not a number")
        error = min(max(measured_kl / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * min(steps / self.horizon, 1.0)

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]


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

    The totals are counted over all processes before the first micro-batch: how a batch is split does not matter.

    Args:
        token_counts: Action tokens of each row, ``[rows]``.
        total_tokens: Action tokens of the global batch.
        total_rows: Rows of the global batch.

    Returns:
        ``[rows]``: the weight of every action token of that row.
    """
    if aggregation == "sequence":
        return 1.0 / (total_rows * token_counts)
    total = total_tokens if aggregation == "token" else total_rows * max_new_tokens
    return torch.full_like(token_counts, 1.0 / total, dtype=torch.get_default_dtype())
