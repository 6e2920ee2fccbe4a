"""Losses against hand-computed cases, finite differences and exact expectations."""

import math

import pytest
import torch
from torch import Tensor

from algos.maths.losses import Aggregation, clipped_policy_loss, kl_estimate, kl_loss, token_weights

LOW, HIGH = 0.2, 0.28


def loss_at(ratio: float, advantage: float) -> tuple[float, float]:
    """The clipped loss of one token and its derivative by the log-probability."""
    old = torch.tensor([-2.0], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    loss = clipped_policy_loss(logprobs, old, torch.tensor([advantage], dtype=torch.float64), LOW, HIGH)
    loss.sum().backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "derivative"),
    [
        (1.0, 2.0, -2.0, -2.0),  # nothing has moved: the plain policy gradient
        (1.1, 2.0, -2.2, -2.2),  # inside: -r A
        (0.9, -2.0, 1.8, 1.8),
        (1.5, 2.0, -1.28 * 2.0, 0.0),  # better and already likelier: held at 1 + clip_high
        (0.5, -2.0, 0.8 * 2.0, 0.0),  # worse and already less likely: held at 1 - clip_low
        (0.5, 2.0, -1.0, -1.0),  # better but less likely: the way back is open
        (1.5, -2.0, 3.0, 3.0),  # worse but likelier: likewise
        (1.25, 1.0, -1.25, -1.25),  # clip-higher: 1 + clip_low would have stopped it
    ],
)
def test_clipped_loss_in_every_region(ratio: float, advantage: float, loss: float, derivative: float) -> None:
    assert loss_at(ratio, advantage) == pytest.approx((loss, derivative), abs=1e-12)


def finite_difference(f: torch.nn.Module, at: Tensor, h: float = 1e-6) -> Tensor:
    steps = torch.eye(len(at), dtype=at.dtype) * h
    return torch.stack([(f(at + step) - f(at - step)) / (2 * h) for step in steps])


@pytest.mark.parametrize("loss", ["policy", "kl"])
def test_gradients_agree_with_finite_differences(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs, other, advantages = torch.randn(3, 200, dtype=torch.float64, generator=generator) * 0.5

    def f(x: Tensor) -> Tensor:
        per_token = clipped_policy_loss(x, other, advantages, LOW, HIGH) if loss == "policy" else kl_loss(x, other)
        return per_token.sum()

    at = logprobs.clone().requires_grad_()
    f(at).backward()
    assert at.grad is not None
    torch.testing.assert_close(at.grad, finite_difference(f, logprobs), rtol=1e-6, atol=1e-7)  # type: ignore[arg-type]
    if loss == "policy":
        assert 20 < int((at.grad == 0).sum()) < 180, "both clipped and open tokens must have been tried"


def two_policies() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits, ref = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    return logits, torch.log_softmax(ref, -1)


def test_kl_loss_has_the_gradient_of_the_divergence_in_expectation() -> None:
    logits, ref = two_policies()

    def divergence(x: Tensor) -> Tensor:
        p = torch.log_softmax(x, -1)
        return (p.exp() * (p - ref)).sum()

    x = logits.clone().requires_grad_()
    p = torch.log_softmax(x, -1)
    (p.detach().exp() * kl_loss(p, ref)).sum().backward()  # tokens are samples: their probabilities are not trained
    torch.testing.assert_close(x.grad, finite_difference(divergence, logits), rtol=1e-6, atol=1e-9)  # type: ignore[arg-type]


def test_kl_estimate_is_unbiased_and_never_negative() -> None:
    logits, ref = two_policies()
    p = torch.log_softmax(logits, -1)
    estimate = kl_estimate(p, ref)
    assert (p.exp() * estimate).sum().item() == pytest.approx((p.exp() * (p - ref)).sum().item(), rel=1e-12)
    assert estimate.min() > 0
    assert kl_estimate(p, p).tolist() == [0.0] * 6


# Rows of 1, 3 and 8 action tokens in a global batch of 20 tokens and 5 rows, replies of at most 10 tokens.
@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token", [1 / 20] * 3),
        ("sequence", [1 / 5, 1 / 15, 1 / 40]),
        ("constant", [1 / 50] * 3),
    ],
)
def test_token_weights_are_those_of_the_papers(aggregation: Aggregation, weights: list[float]) -> None:
    given = token_weights(torch.tensor([1, 3, 8]), aggregation, 20.0, 5.0, 10)
    assert given.tolist() == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_weights_of_all_tokens_add_up_to_one(aggregation: Aggregation) -> None:
    counts = torch.tensor([1, 3, 8, 2])
    weights = token_weights(counts, aggregation, float(counts.sum()), 4.0, 10)
    assert (weights * counts).sum().item() == pytest.approx(1.0, rel=1e-6)
    per_row = (weights * counts).tolist()
    if aggregation == "sequence":
        assert per_row == pytest.approx([0.25] * 4, rel=1e-6)
    else:
        assert per_row == pytest.approx([n / 14 for n in (1, 3, 8, 2)], rel=1e-6)
