"""Mistakes that public trainers made, each shown not to be made here. Where a test of one module does, it is there."""

from __future__ import annotations

import itertools

import pytest
import torch
from micro import micro_model, plain_logprobs

from algos.data.batching import Batch
from algos.data.episodes import Turn
from algos.data.rows import Row, to_rows
from algos.engines.hf import HFEngine
from algos.maths.advantages import gae, group_relative, same_state
from algos.model.forward import Policy

GROUP = 4
CONTINUE, END = -4.0, 0.0
"""Going on after the first turn costs 4 at the second, ending costs nothing; the policy does either half the time."""


def first_turn_credit(went_on: tuple[bool, ...], credit: str) -> list[float]:
    """The advantage of each episode's first turn, the one in which it decides to go on or to end."""
    returns = torch.tensor([CONTINUE if on else END for on in went_on], dtype=torch.float64)
    if credit == "episode":
        return group_relative(returns[None], "none")[0].tolist()
    if credit == "state":  # the first turns share a state, the second ones another
        second = returns[torch.tensor(went_on)]
        states = torch.tensor([0] * GROUP + [1] * len(second))
        return same_state(torch.cat([returns, second]), states)[0][:GROUP].tolist()
    rewards = torch.zeros(1, GROUP, dtype=torch.float64)  # the trap: rewards compared turn index by turn index
    return group_relative(rewards, "none")[0].tolist()


@pytest.mark.parametrize(("credit", "gradient"), [("episode", -1.0), ("state", -1.0), ("turn index", 0.0)])
def test_the_decision_to_end_an_episode_keeps_its_gradient(credit: str, gradient: float) -> None:
    """Trap: rewards normalised per turn index in a group never compare going on with ending.

    The gradient of the expected return in the logit of going on is p (1 - p) (-4) = -1. A mean that holds the episode
    itself makes it (n - 1) / n of that. The last case is the mistake: the example tells them apart.
    """
    expected = 0.0
    for went_on in itertools.product([True, False], repeat=GROUP):
        slopes = [0.5 if on else -0.5 for on in went_on]  # of log p(what was decided)
        credits = first_turn_credit(went_on, credit)
        expected += sum(a * s for a, s in zip(credits, slopes, strict=True)) / GROUP / 2**GROUP
    assert expected * GROUP / (GROUP - 1) == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize("rewards", [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
def test_turns_are_told_apart_whatever_they_earned(rewards: list[float]) -> None:
    """Trap: boundaries inferred from non-zero rewards; an episode that earned nothing raised."""
    turns: list[Turn] = []
    for reward in rewards:
        past = turns[-1].prompt_ids + turns[-1].action_ids if turns else []
        turns.append(Turn([*past, 9], [5, 6], [-1.0, -1.0], reward=reward))
    advantages, _ = gae(
        torch.tensor([t.reward for t in turns]), torch.zeros(3), bootstrap=0.0, gamma=1.0, gae_lambda=1.0
    )
    for turn, value in zip(turns, advantages.tolist(), strict=True):
        turn.advantage = value
    (row,) = to_rows(turns)
    assert row.action_mask == [True, True, False, True, True, False, True, True]
    first, second, third = (sum(rewards[i:]) for i in range(3))
    assert row.advantages == [first, first, 0.0, second, second, 0.0, third, third]


@pytest.mark.usefixtures("float64")
def test_a_model_learns_to_end_though_its_end_equals_padding() -> None:
    """Trap: a mask that leaves out padding by value leaves out every end of a reply, too."""
    model, end, prompt = micro_model(), 0, [3, 1, 4]
    policy, engine = Policy(model, 1.0), HFEngine(micro_model(), {end}, 8)

    def ending() -> float:
        return plain_logprobs(model, Row(prompt, [end], [True], [0.0], [0.0]), 1.0).item()

    samples = engine.generate([prompt] * 400, 1.0, torch.Generator().manual_seed(0))
    rows = [Row(prompt, s.ids, [True] * len(s.ids), s.logprobs, [float(s.ids == [end])] * len(s.ids)) for s in samples]
    assert 0 < sum(row.ids == [end] for row in rows) < 400
    before = ending()
    batch = Batch.of(rows)
    gain = (policy(batch)[0] * batch.at_actions(batch.advantages)).sum()
    (-gain / gain.detach().abs()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    assert ending() > before + 1e-3
