"""Losses against hand-computed cases, finite differences and exact expectations."""

import math

import pytest
import torch
from torch import Tensor

from algos.maths.losses import (
    AdaptiveKL,
    Aggregation,
    clipped_surrogate,
    clipped_value_loss,
    importance_weights,
    kl_estimate,
    policy_gradient_loss,
    sequence_log_ratio,
    token_weights,
)

LOW, HIGH = 0.2, 0.28


def loss_at(ratio: float, advantage: float) -> tuple[float, float]:
    """The clipped loss of one token and its derivative by the log-probability."""
    old = torch.tensor([-2.0], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    loss = clipped_surrogate(logprobs - old, torch.tensor([advantage], dtype=torch.float64), LOW, HIGH)
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


LOSSES = {
    "policy": lambda x, other, target: clipped_surrogate(x - other, target, LOW, HIGH),
    "reinforce": lambda x, other, target: policy_gradient_loss(x, target),
    "value": lambda x, other, target: clipped_value_loss(x, other, target, 0.3),
    "plain value": lambda x, other, target: clipped_value_loss(x, other, target, None),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, other, target = torch.randn(3, 200, dtype=torch.float64, generator=generator) * 0.5

    def f(x: Tensor) -> Tensor:
        return LOSSES[loss](x, other, target).sum()

    at = x.clone().requires_grad_()
    f(at).backward()
    assert at.grad is not None
    torch.testing.assert_close(at.grad, finite_difference(f, x), rtol=1e-6, atol=1e-7)  # type: ignore[arg-type]
    if loss in ("policy", "value"):
        assert 20 < int((at.grad == 0).sum()) < 180, "both clipped and open tokens must have been tried"


def two_policies() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits, ref = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    return logits, torch.log_softmax(ref, -1)


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


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "derivative"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # nothing has moved: half the squared error
        (1.1, 1.0, 3.0, 1.805, -1.9),  # inside
        (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # moved far towards the target: held at 1 + clip
        (0.0, 1.0, 3.0, 4.5, -3.0),  # moved far away from it: the way back is open
        (4.5, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # past the target, yet the held estimate is worse
        (9.0, 1.0, 3.0, 18.0, 6.0),  # so far past that the estimate itself is worse
    ],
)
def test_clipped_value_loss_in_every_region(
    value: float, old: float, target: float, loss: float, derivative: float
) -> None:
    v, was, goal = torch.tensor([[value], [old], [target]], dtype=torch.float64)
    v.requires_grad_()
    clipped = clipped_value_loss(v, was, goal, 0.2)
    clipped.sum().backward()
    assert v.grad is not None
    assert (clipped.item(), v.grad.item()) == pytest.approx((loss, derivative), abs=1e-12)
    assert clipped_value_loss(v, was, goal, None).item() == pytest.approx(0.5 * (value - target) ** 2)


# Turn 0 has one token, turn 1 none, turn 2 three, and they alternate.
TURN = torch.tensor([2, 0, 2, 2])
OLD = torch.tensor([-1.0, -2.0, -3.0, -4.0], dtype=torch.float64)
NOW = OLD + torch.tensor([0.3, -0.2, 0.6, -0.3], dtype=torch.float64)


def test_sequence_ratio_is_the_geometric_mean_over_the_turn() -> None:
    assert sequence_log_ratio(NOW, OLD, TURN, 3).tolist() == pytest.approx([0.2, -0.2, 0.2, 0.2])


def test_the_mean_over_a_turn_has_the_gradient_of_gspo() -> None:
    """With one advantage a turn, GSPO-token averaged over the turn is GSPO: d s_i A / d logprobs."""
    advantages = torch.tensor([1.5, -2.0, 1.5, 1.5], dtype=torch.float64)

    def gspo(x: Tensor) -> Tensor:
        first, second = (x - OLD)[1], (x - OLD)[[0, 2, 3]].mean()
        return -(first.exp() * -2.0 + second.exp() * 1.5)

    x = NOW.clone().requires_grad_()
    per_token = clipped_surrogate(sequence_log_ratio(x, OLD, TURN, 3), advantages, LOW, HIGH)
    (per_token / torch.tensor([3, 1, 3, 3])).sum().backward()
    torch.testing.assert_close(x.grad, finite_difference(gspo, NOW), rtol=1e-6, atol=1e-9)  # type: ignore[arg-type]


def test_a_turn_is_clipped_as_a_whole_and_tokens_keep_their_own_advantages() -> None:
    x = (OLD + torch.tensor([0.9, 0.1, 0.0, 0.0], dtype=torch.float64)).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    clipped_surrogate(sequence_log_ratio(x, OLD, TURN, 3), advantages, LOW, HIGH).sum().backward()
    # Turn 2 is at exp(0.3) = 1.35: its good tokens stop, even those that have not moved; its bad one goes back.
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.0, -math.exp(0.1), 0.0, math.exp(0.3)])


def test_reinforce_has_the_gradient_of_the_expected_return() -> None:
    logits, _ = two_policies()
    rewards = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, -1.0], dtype=torch.float64)
    x = logits.clone().requires_grad_()
    p = torch.log_softmax(x, -1)
    (p.detach().exp() * policy_gradient_loss(p, rewards)).sum().backward()

    def expected_return(x: Tensor) -> Tensor:
        return -(torch.softmax(x, -1) * rewards).sum()

    torch.testing.assert_close(x.grad, finite_difference(expected_return, logits), rtol=1e-6, atol=1e-9)  # type: ignore[arg-type]


def test_importance_weights_correct_what_another_engine_sampled() -> None:
    logits, sampler = two_policies()
    trainer = torch.log_softmax(logits, -1).requires_grad_()
    worth = torch.arange(6, dtype=torch.float64)
    weights = importance_weights(trainer, sampler, cap=math.inf)
    assert (sampler.exp() * weights * worth).sum().item() == pytest.approx((trainer.exp() * worth).sum().item())
    assert not weights.requires_grad
    capped = importance_weights(trainer, sampler)
    assert weights.max() > 2.0
    assert capped.tolist() == [min(w, 2.0) for w in weights.tolist()]


def test_importance_weights_stay_finite_for_a_token_the_sampler_thought_impossible() -> None:
    assert importance_weights(torch.tensor([-1.0, -1.0]), torch.tensor([-200.0, -math.inf])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("measured", "factor"), [(6.0, 1.0), (6.6, 1.01), (100.0, 1.02), (5.4, 0.99), (0.0, 0.98), (math.inf, 1.02)]
)
def test_adaptive_kl_is_the_papers_controller(measured: float, factor: float) -> None:
    controller = AdaptiveKL(coef=0.2, target=6.0, horizon=10.0)  # one step: the paper's K = 0.1
    controller.update(measured, steps=1)
    assert controller.coef == pytest.approx(0.2 * factor)


def test_adaptive_kl_brings_the_divergence_to_its_target() -> None:
    controller = AdaptiveKL(coef=0.01, target=0.05, horizon=100.0)
    for _ in range(400):
        controller.update(measured_kl=0.02 / controller.coef, steps=32)  # the more weight, the less divergence
    assert 0.02 / controller.coef == pytest.approx(0.05, rel=1e-3)


def test_adaptive_kl_stays_positive_however_many_steps_at_once() -> None:
    controller = AdaptiveKL(coef=1.0, target=1.0, horizon=10.0)
    controller.update(0.0, steps=10_000)
    assert controller.coef == pytest.approx(0.8)


def test_adaptive_kl_survives_a_checkpoint() -> None:
    before, after = AdaptiveKL(0.2, 6.0, 10.0), AdaptiveKL(0.2, 6.0, 10.0)
    before.update(9.0, steps=4)
    after.load_state_dict(before.state_dict())
    assert after.coef == before.coef != 0.2


@pytest.mark.parametrize("name", ["coef", "target", "horizon"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_adaptive_kl_refuses_settings_that_are_not_positive(name: str, value: float) -> None:
    settings = {"coef": 0.2, "target": 6.0, "horizon": 100.0, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a positive number, not {value}"):
        AdaptiveKL(**settings)


def test_adaptive_kl_refuses_nan_and_keeps_its_weight() -> None:
    controller = AdaptiveKL(0.2, 6.0, 100.0)
    with pytest.raises(ValueError, match="not a number"):
        controller.update(math.nan, steps=1)
    assert controller.coef == 0.2
