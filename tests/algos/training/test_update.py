"""One update of GRPO: the gradient is the papers' formula, however the batch is cut."""

from __future__ import annotations

import copy
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from micro import micro_model, plain_logprobs, some_conversations, some_rows, updated

from algos.data.batching import merge_equal
from algos.data.rows import Row, to_rows
from algos.maths.losses import Aggregation
from algos.training.update import shuffled

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
AGGREGATIONS: list[Aggregation] = ["token", "sequence", "constant"]


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator()


def objective(model: torch.nn.Module, rows: list[Row], aggregation: Aggregation, max_new_tokens: int) -> torch.Tensor:
    """The clipped surrogate, written out token by token from the papers."""
    total = torch.zeros(())
    tokens = sum(row.action_tokens for row in rows)
    for row in rows:
        old = torch.tensor([p for p, taken in zip(row.old_logprobs, row.action_mask, strict=True) if taken])
        advantages = [a for a, taken in zip(row.advantages, row.action_mask, strict=True) if taken]
        for now, before, advantage in zip(plain_logprobs(model, row, 1.0), old, advantages, strict=True):
            ratio = (now - before).exp()
            clipped = min(max(ratio.item(), 0.8), 1.28) * advantage
            gain = ratio * advantage if (ratio * advantage).item() <= clipped else torch.tensor(clipped)
            share = {
                "token": 1 / tokens,
                "sequence": 1 / (len(rows) * row.action_tokens),
                "constant": 1 / (len(rows) * max_new_tokens),
            }[aggregation]
            total = total + gain * share
    return -total


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradient_is_the_same_for_micro_batches_of_1_3_and_all(
    aggregation: Aggregation, accelerator: Accelerator
) -> None:
    """Trap: a mean per micro-batch weighs a short row's tokens several times."""
    rows, model = some_rows(7), micro_model()
    assert len({row.action_tokens for row in rows}) > 2
    loss = objective(model, rows, aggregation, 10)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    expected = [value - slope for value, slope in zip(model.parameters(), slopes, strict=True)]
    for size in (1, 3, 7):
        settings = {"grpo__aggregation": aggregation, "optim__micro_batch": size}
        after, metrics = updated(copy.deepcopy(rows), accelerator, **settings)
        assert metrics["losses/total"] == pytest.approx(loss.item(), abs=1e-9)
        for ours, theirs in zip(after.values(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_several_epochs_and_minibatches_with_kl_do_not_depend_on_micro_batches(
    aggregation: Aggregation, accelerator: Accelerator
) -> None:
    results = []
    for size in (1, 3, 7):
        results.append(
            updated(
                some_rows(7),
                accelerator,
                optim__lr=0.05,
                grpo__aggregation=aggregation,
                grpo__epochs=2,
                grpo__minibatches=2,
                grpo__kl_coef=0.3,
                optim__micro_batch=size,
            )
        )
    first, metrics = results[0]
    assert metrics["policy/kl_to_reference"] > 0
    assert any(not torch.equal(value, start) for value, start in zip(first.values(), micro_model().parameters()))
    for other, other_metrics in results[1:]:
        assert other_metrics == pytest.approx(metrics, rel=1e-9, abs=1e-9)
        for name, value in other.items():
            torch.testing.assert_close(value, first[name], **EXACT)


@pytest.mark.usefixtures("float64")
def test_a_minibatch_is_an_optimizer_step_of_its_own(accelerator: Accelerator) -> None:
    """With steps too small to matter to the next one: two halves, each a mean of its own, come twice as far as one."""
    rows = [row for row in some_rows(40) if row.action_tokens == 3][:2]
    lr = 1e-7
    start = torch.cat([value.flatten() for value in micro_model().parameters()])

    def moved(**settings: Any) -> torch.Tensor:
        after, _ = updated(copy.deepcopy(rows), accelerator, optim__lr=lr, **settings)
        return (torch.cat([value.flatten() for value in after.values()]) - start) / lr

    once = moved()
    assert once.norm() > 0.1
    torch.testing.assert_close(moved(grpo__minibatches=2), 2 * once, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved(grpo__epochs=3), 3 * once, rtol=1e-4, atol=1e-4)


def test_prompts_are_shuffled_whole_or_row_by_row() -> None:
    rows = [Row([prompt], [1], [True], [0.0], [0.0]) for prompt in [7, 8, 9, 7, 8, 9, 7, 7]]
    orders = [[rows[i].prompt_ids[0] for i in shuffled(rows, np.random.default_rng(seed), True)] for seed in range(50)]
    runs = {tuple(prompt for prompt, _ in itertools.groupby(order)) for order in orders}
    assert runs == set(itertools.permutations([7, 8, 9]))
    assert all(sorted(order) == [7, 7, 7, 7, 8, 8, 9, 9] for order in orders)
    by_row = shuffled(rows, np.random.default_rng(3), False)
    assert by_row == np.random.default_rng(3).permutation(8).tolist()


@pytest.mark.usefixtures("float64")
def test_prompts_kept_together_are_stepped_on_one_after_another(accelerator: Accelerator) -> None:
    """Two prompts, two minibatches: each is a whole prompt, so the steps do not depend on how many rows it has."""
    rows = [row for row in some_rows(40) if row.action_tokens == 3][:2]
    twice = [copy.deepcopy(row) for row in rows for _ in range(2)]
    settings: dict[str, Any] = {"grpo__minibatches": 2, "grpo__shuffle": "prompts"}
    whole, _ = updated(rows, accelerator, **settings)
    doubled, _ = updated(twice, accelerator, **settings)
    for ours, theirs in zip(whole.values(), doubled.values(), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.usefixtures("float64")
def test_gradients_are_scaled_down_to_the_largest_norm_allowed(accelerator: Accelerator) -> None:
    start = dict(micro_model().named_parameters())
    free, metrics = updated(some_rows(7), accelerator)
    held, _ = updated(some_rows(7), accelerator, optim__max_grad_norm=metrics["optim/grad_norm"] / 4)
    for name, value in free.items():
        torch.testing.assert_close(held[name] - start[name], (value - start[name]) / 4, rtol=1e-4, atol=1e-9)
    moved = torch.cat([(value - start[name]).flatten() for name, value in free.items()])
    assert moved.norm().item() == pytest.approx(metrics["optim/grad_norm"], rel=1e-9)


@pytest.mark.usefixtures("float64")
def test_without_rows_nothing_moves(accelerator: Accelerator) -> None:
    after, metrics = updated([], accelerator)
    for name, value in micro_model().named_parameters():
        assert torch.equal(after[name], value)
    assert metrics["optim/grad_norm"] == 0.0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_equal_rows_merged_give_the_gradient_of_the_rows_apart(
    aggregation: Aggregation, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(5)
    for row in rows[:3]:  # the same tokens again, with advantages of either sign and another size
        for factor in (0.5, -2.0, -0.1):
            again = copy.deepcopy(row)
            again.advantages = [a * factor for a in row.advantages]
            rows.append(again)
    assert len(merge_equal(rows)) == 5 + 3
    settings = {"grpo__aggregation": aggregation, "grpo__kl_coef": 0.1}
    merged, metrics = updated(copy.deepcopy(rows), accelerator, **settings)
    monkeypatch.setattr("algos.training.update.merge_equal", list)
    apart, metrics_apart = updated(copy.deepcopy(rows), accelerator, **settings)
    for ours, theirs in zip(merged.values(), apart.values(), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    assert metrics == pytest.approx(metrics_apart)


@pytest.mark.usefixtures("float64")
def test_a_ratio_by_turn_is_gspos_one_ratio_a_reply(accelerator: Accelerator) -> None:
    rows, model = some_rows(7), micro_model()
    for number, row in enumerate(rows):  # near enough to the policy that some ratios are clipped and some not
        near = plain_logprobs(model, row, 1.0).detach() + 0.15 * (number - 3)
        row.old_logprobs = row.spread(near.tolist())
    total, tokens = torch.zeros(()), sum(row.action_tokens for row in rows)
    for row in rows:
        now = iter(plain_logprobs(model, row, 1.0))
        turns: list[list[tuple[torch.Tensor, float, float]]] = []
        for i, taken in enumerate(row.action_mask):
            if taken:
                if i == 0 or not row.action_mask[i - 1]:
                    turns.append([])
                turns[-1].append((next(now), row.old_logprobs[i], row.advantages[i]))
        for turn in turns:
            ratio = torch.stack([p - old for p, old, _ in turn]).mean().exp()
            credit = turn[0][2]
            total = total - torch.minimum(ratio * credit, ratio.clamp(0.8, 1.28) * credit) * len(turn) / tokens
    slopes = torch.autograd.grad(total, list(model.parameters()))
    for size in (1, 7):
        after, metrics = updated(copy.deepcopy(rows), accelerator, grpo__ratio="turn", optim__micro_batch=size)
        assert metrics["losses/total"] == pytest.approx(total.item(), abs=1e-9)
        assert 0 < metrics["losses/clipfrac"] < 1
        for ours, start, slope in zip(after.values(), model.parameters(), slopes, strict=True):
            torch.testing.assert_close(ours, start - slope, **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cap", [100.0, 1.1])
def test_an_engine_whose_probabilities_are_off_is_corrected_by_exactly_as_much(
    cap: float, accelerator: Accelerator
) -> None:
    model, drawn = micro_model(), random.Random(0)
    # Equal tokens, sampled at unequal odds.
    conversations = [copy.deepcopy(turns) for turns in some_conversations(5) for _ in range(2)]
    rows = [row for turns in conversations for row in to_rows(turns)]
    off, true = list[list[float]](), list[torch.Tensor]()
    for turns, row in zip(conversations, rows, strict=True):
        true.append(plain_logprobs(model, row, 1.0))
        off.append([drawn.gauss(0.0, 0.2) for _ in range(row.action_tokens)])
        sampled = iter([p + d for p, d in zip(true[-1].tolist(), off[-1], strict=True)])
        for turn in turns:
            turn.logprobs = [next(sampled) for _ in turn.action_ids]
    weights = [[min(math.exp(-d), cap) for d in each] for each in off]
    total, tokens = torch.zeros(()), sum(map(len, off))
    for row, now, each in zip(rows, true, weights, strict=True):
        credits = [a for a, taken in zip(row.advantages, row.action_mask) if taken]
        for p, weight, credit in zip(now, each, credits, strict=True):
            total = total - weight * credit * (p - p.detach()).exp() / tokens
    slopes = torch.autograd.grad(total, list(model.parameters()))
    after, metrics = updated([], accelerator, conversations, grpo__tis_cap=cap, optim__micro_batch=3)
    for ours, start, slope in zip(after.values(), model.parameters(), slopes, strict=True):
        torch.testing.assert_close(ours, start - slope, **EXACT)
    flat = [weight for each in weights for weight in each]
    assert metrics["policy/importance"] == pytest.approx(sum(flat) / tokens)
    assert metrics["policy/engine_difference"] == pytest.approx(sum(abs(d) for each in off for d in each) / tokens)
    share = sum(flat) ** 2 / (tokens * sum(weight**2 for weight in flat))
    assert metrics["policy/effective_sample_size"] == pytest.approx(share)
    assert metrics["policy/ratio"] == pytest.approx(1.0)  # it is the update's own, not the engine's


def test_rows_sampled_at_other_probabilities_are_not_merged() -> None:
    row = some_rows(1)[0]
    other = copy.deepcopy(row)
    other.old_logprobs = [p - 0.1 for p in row.old_logprobs]
    assert len(merge_equal([row, other])) == 2
