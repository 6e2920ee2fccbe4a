"""What GRPO makes of episodes before the gradient: advantages, rows, figures; and the learning rate."""

from __future__ import annotations

import math

import pytest

from algos.grpo import GrpoConfig, advantage, check, describe, learning_rate
from algos.rollout.records import Episode, Turn
from algos.run.config import ConfigError


def episode(reward: float, outcome: str = "win", parse: str = "ok", tokens: int = 3, turns: int = 2) -> Episode:
    """A conversation that grows, its reward at the end."""
    made: list[Turn] = []
    for _ in range(turns):
        prompt = made[-1].prompt_ids + made[-1].action_ids + [8] if made else [1, 2]
        made.append(Turn(prompt, [5] * tokens, [-1.0] * tokens, parse=parse))
    made[-1].reward = reward
    return Episode("env", 0, turns=made, outcome=outcome)


def settings(**sections: dict[str, object]) -> GrpoConfig:
    return GrpoConfig.model_validate(sections)


def test_each_token_of_an_episode_carries_its_advantage() -> None:
    config = settings(grpo={"group_size": 2, "advantage": "none"})
    advantages, rows, _ = advantage(config, [episode(1.0), episode(0.0)])
    assert advantages == [0.5, -0.5]
    assert [row.advantages for row in rows] == [[a] * 3 + [0.0] + [a] * 3 for a in (0.5, -0.5)]


def test_std_divides_by_the_groups_deviation() -> None:
    config = settings(grpo={"group_size": 2, "advantage": "std"})
    advantages, _, _ = advantage(config, [episode(1.0), episode(0.0), episode(30.0), episode(10.0)])
    half = 1 / math.sqrt(2)  # of two returns the deviation is their distance / sqrt(2)
    assert advantages == pytest.approx([half, -half, half, -half], rel=1e-5)


def test_groups_without_signal_are_dropped_and_counted() -> None:
    config = settings(grpo={"group_size": 2})
    games = [episode(0.1), episode(0.1), episode(1.0), episode(-1.0), episode(-1.5), episode(-1.5)]
    advantages, rows, metrics = advantage(config, games)
    assert (advantages[:2], advantages[4:]) == ([0.0] * 2, [0.0] * 2)
    assert len(rows) == 2
    assert metrics["groups/no_signal"] == pytest.approx(2 / 3)


def test_credit_by_turn_compares_replies_to_the_same_prompt_of_one_group() -> None:
    def played(first: float, second: float, prompt: int) -> Episode:
        turns = [Turn([1], [5], [-1.0], reward=first), Turn([1, prompt], [5], [-1.0], reward=second)]
        return Episode("env", 0, turns=turns)

    config = settings(grpo={"group_size": 3, "advantage": "none", "credit": "turn"})
    group = [played(0.5, 1.0, 2), played(0.0, -1.0, 2), played(0.0, -1.0, 3)]
    other = [played(5.0, 5.0, 2), played(5.0, 5.0, 2), played(5.0, 2.0, 2)]
    for episode_of_other in other:
        episode_of_other.group = 1
    advantages, rows, _ = advantage(config, group + other)
    mean = (1.5 - 1.0 - 1.0) / 3
    assert advantages[:3] == pytest.approx([1.5 - mean, -1.0 - mean, -1.0 - mean])
    # First turns share their prompt; so do two of the second ones; the last one is alone and keeps the episode's.
    expected = [1.5 - mean, 1.0, -1.0 - mean, -1.0, -1.0 - mean, -1.0 - mean]
    assert [row.advantages[0] for row in rows[:6]] == pytest.approx(expected)
    assert [row.advantages[0] for row in rows[6:]] == pytest.approx([1.0, 1.0, 1.0, 1.0, -2.0, -2.0])


def test_figures_of_a_step_are_those_of_its_episodes() -> None:
    games = [episode(1.0), episode(0.0, "draw", turns=3), episode(-1.5, "invalid", "illegal", turns=1)]
    games[0].turns[0].stop_reason = "length"
    figures = describe(games)
    assert figures["reward/mean"] == pytest.approx(-0.5 / 3)
    assert [figures[f"outcome/{name}"] for name in ("win", "draw", "loss", "invalid")] == [1 / 3, 1 / 3, 0.0, 1 / 3]
    assert [figures[f"parse/{name}"] for name in ("ok", "illegal", "malformed")] == [5 / 6, 1 / 6, 0.0]
    assert (figures["tokens/sampled"], figures["episode/turns"], figures["reply/cut"]) == (18.0, 2.0, 1 / 6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1]),
        ("cosine", [0.5, 1.0, 1.0, 0.55 + 0.45 * math.cos(math.pi / 3), 0.55 - 0.45 * math.cos(math.pi / 3), 0.1]),
    ],
)
def test_learning_rate_warms_up_and_ends_at_the_final_one(schedule: str, rates: list[float]) -> None:
    config = settings(run={"max_steps": 6}, optim={"lr": 1.0, "final_lr": 0.1, "warmup_steps": 2, "schedule": schedule})
    assert [learning_rate(config, step) for step in range(6)] == pytest.approx(rates)
    assert learning_rate(config, 99) == pytest.approx(rates[-1])


def test_groups_without_signal_can_be_kept_for_the_divergence() -> None:
    config = settings(grpo={"group_size": 2, "drop_no_signal": False})
    _, rows, metrics = advantage(config, [episode(0.1), episode(0.1), episode(1.0), episode(-1.0)])
    assert [any(row.advantages) for row in rows] == [False, False, True, True]
    assert metrics["groups/no_signal"] == pytest.approx(1 / 2)


def test_an_average_episode_of_a_telling_group_still_counts_in_the_mean() -> None:
    config = settings(grpo={"group_size": 3, "advantage": "none"})
    _, rows, _ = advantage(config, [episode(1.0), episode(0.0), episode(-1.0)])
    assert [row.advantages[0] for row in rows] == [1.0, 0.0, -1.0]


def test_credit_by_turn_with_returns_divided_by_their_deviation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"grpo\.advantage none"):
        check(settings(grpo={"credit": "turn"}))
