"""What GRPO makes of episodes before the gradient: groups, advantages, rows, figures; and the learning rate."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from micro import sections

from algos.data.episodes import Episode, Turn
from algos.errors import ConfigError
from algos.grpo import GrpoConfig, advantage, check, collect
from algos.rollout.self_play import SelfPlay
from algos.rollout.single_agent import EpisodeRunner
from algos.training.metrics import describe
from algos.training.optimizers import learning_rate
from algos.training.run import Run
from algos.training.trainer import Trainer


def episode(reward: float, outcome: str = "win", parse: str = "ok", tokens: int = 3, turns: int = 2) -> Episode:
    """A conversation that grows, its reward at the end."""
    made: list[Turn] = []
    for _ in range(turns):
        prompt = made[-1].prompt_ids + made[-1].action_ids + [8] if made else [1, 2]
        made.append(Turn(prompt, [5] * tokens, [-1.0] * tokens, parse=parse))
    made[-1].reward = reward
    return Episode("env", 0, turns=made, outcome=outcome)


def credits(groups: list[list[Episode]]) -> list[list[float]]:
    """The advantage of each turn of each episode."""
    return [[turn.advantage for turn in episode.turns] for group in groups for episode in group]


def settings(**sections: dict[str, object]) -> GrpoConfig:
    return GrpoConfig.model_validate(sections)


def test_each_token_of_an_episode_carries_its_advantage() -> None:
    config = settings(grpo={"group_size": 2, "advantage": "none"})
    group = [episode(1.0), episode(0.0)]
    rows, _ = advantage(config, [group])
    assert credits([group]) == [[0.5, 0.5], [-0.5, -0.5]]
    assert [row.advantages for row in rows] == [[a] * 3 + [0.0] + [a] * 3 for a in (0.5, -0.5)]


def test_std_divides_by_the_groups_deviation() -> None:
    config = settings(grpo={"group_size": 2, "advantage": "std"})
    groups = [[episode(1.0), episode(0.0)], [episode(30.0), episode(10.0)]]
    advantage(config, groups)
    half = 1 / math.sqrt(2)  # of two returns the deviation is their distance / sqrt(2)
    assert [first for first, _ in credits(groups)] == pytest.approx([half, -half, half, -half], rel=1e-5)


def test_groups_without_signal_are_dropped_and_counted() -> None:
    config = settings(grpo={"group_size": 2})
    returns = [(0.1, 0.1), (1.0, -1.0), (-1.5, -1.5)]
    groups = [[episode(one), episode(other)] for one, other in returns]
    rows, metrics = advantage(config, groups)
    assert [any(credit) for credit in credits(groups)] == [False, False, True, True, False, False]
    assert len(rows) == 2
    assert metrics["groups/zero_std"] == pytest.approx(2 / 3)


def test_credit_by_turn_compares_replies_to_the_same_prompt_of_one_group() -> None:
    def played(first: float, second: float, prompt: int) -> Episode:
        turns = [Turn([1], [5], [-1.0], reward=first), Turn([1, prompt], [5], [-1.0], reward=second)]
        return Episode("env", 0, turns=turns)

    config = settings(grpo={"group_size": 3, "advantage": "none", "advantage_level": "same_prompt"})
    group = [played(0.5, 1.0, 2), played(0.0, -1.0, 2), played(0.0, -1.0, 3)]
    other = [played(5.0, 5.0, 2), played(5.0, 5.0, 2), played(5.0, 2.0, 2)]
    rows, _ = advantage(config, [group, other])
    mean = (1.5 - 1.0 - 1.0) / 3
    # First turns share their prompt; so do two of the second ones; the last one is alone and keeps the episode's.
    expected = [1.5 - mean, 1.0, -1.0 - mean, -1.0, -1.0 - mean, -1.0 - mean]
    assert [row.advantages[0] for row in rows[:6]] == pytest.approx(expected)
    assert [row.advantages[0] for row in rows[6:]] == pytest.approx([1.0, 1.0, 1.0, 1.0, -2.0, -2.0])
    assert [credit for turns in credits([group]) for credit in turns] == pytest.approx(expected)


def test_baseline_step_compares_all_episodes_of_a_game_and_seat() -> None:
    def played(earned: float, player: int, prompt: int = 0, env: str = "env") -> Episode:
        turns = [Turn([player, prompt], [5], [-1.0], reward=earned)] if prompt >= 0 else []
        return Episode(env, 0, player=player, turns=turns)

    def groups() -> list[list[Episode]]:
        still = -1  # a seat that never moved
        return [
            [played(1.0, 0), played(1.0, 0)],
            [played(-1.0, 1, 3), played(0.0, 1, 4)],
            [played(-1.0, 0, 1), played(0.0, 0, 2)],
            [played(7.0, 1, still), played(1.0, 1, 3)],
            [played(3.0, 0, 9, "other"), played(3.0, 0, 9, "other")],
        ]

    config = settings(grpo={"group_size": 2, "advantage": "none", "baseline": "batch"})
    rows, metrics = advantage(config, groups())
    expected = [0.75, 0.75, -1.0, 0.0, -1.25, -0.25, 1.0]
    told = [value for value in expected if value]  # what is average tells nothing, nor does the other game
    assert [row.advantages[0] for row in rows] == pytest.approx(told)
    assert metrics["groups/zero_std"] == 2 / 5
    kept = settings(grpo={"group_size": 2, "advantage": "none", "baseline": "batch", "filter_zero_std": False})
    assert [row.advantages[0] for row in advantage(kept, groups())[0]] == pytest.approx([*expected, 0.0, 0.0])
    by_turn = settings(grpo={**kept.grpo.model_dump(), "advantage_level": "same_prompt"})
    # The first two share a prompt and earned the same; those of seat 1 with prompt 3 stand in different groups.
    expected = [0.0, 0.0, -1.0, 0.0, -1.25, -0.25, 1.0, 0.0, 0.0]
    assert [row.advantages[0] for row in advantage(by_turn, groups())[0]] == pytest.approx(expected)


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
    assert [learning_rate(config.optim, step, 6) for step in range(6)] == pytest.approx(rates)
    assert learning_rate(config.optim, 99, 6) == pytest.approx(rates[-1])


def test_groups_without_signal_can_be_kept_for_the_divergence() -> None:
    config = settings(grpo={"group_size": 2, "filter_zero_std": False})
    rows, metrics = advantage(config, [[episode(0.1), episode(0.1)], [episode(1.0), episode(-1.0)]])
    assert [any(row.advantages) for row in rows] == [False, False, True, True]
    assert metrics["groups/zero_std"] == pytest.approx(1 / 2)


def test_an_average_episode_of_a_telling_group_still_counts_in_the_mean() -> None:
    config = settings(grpo={"group_size": 3, "advantage": "none"})
    rows, _ = advantage(config, [[episode(1.0), episode(0.0), episode(-1.0)]])
    assert [row.advantages[0] for row in rows] == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("chosen", [{"advantage_level": "same_prompt"}, {"baseline": "batch"}])
def test_returns_compared_as_they_are_cannot_be_divided_by_their_deviation(chosen: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"grpo\.advantage none"):
        check(settings(grpo=chosen))


class PaysEvenSeeds(gymnasium.Env[str, str]):
    """Pays the digit that is named where the seed is even, else nothing: groups of odd seeds tell nothing."""

    observation_space = action_space = gymnasium.spaces.Text(1000, charset=string.printable)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.pays = seed is not None and seed % 2 == 0
        return "You are X.\n0 1 2\n3 4 5\n6 7 8", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "over", float(self.pays * sum(map(int, filter(str.isdecimal, action)))), True, False, {}


@pytest.fixture
def pays_even_seeds() -> Iterator[str]:
    gymnasium.register("PaysEvenSeeds-v0", entry_point=PaysEvenSeeds)
    yield "PaysEvenSeeds-v0"
    del gymnasium.registry["PaysEvenSeeds-v0"]


@pytest.fixture
def collected(tiny_folder: Path, tmp_path: Path) -> Callable[..., list[list[Episode]]]:
    """The groups of a run's first step."""

    def make(**changed: Any) -> list[list[Episode]]:
        given = {"run__dir": tmp_path, "run__trackers": [], "model__path": str(tiny_folder), "eval__episodes": 0}
        given |= {"rollout__episodes": 32, "rollout__max_new_tokens": 8, "grpo__group_size": 8} | changed
        config = GrpoConfig.model_validate(sections("grpo", **given))
        check(config)
        trainer = Trainer.start(config, resume=False)
        games = (SelfPlay if config.grpo.seats == "all" else EpisodeRunner)(config.rollout)
        return collect(config, Run("grpo", config, {}, trainer), games, 0)

    return make


@pytest.mark.parametrize(
    ("dynamic_sampling_rounds", "seeds"), [(0, [0, 1, 2, 3]), (1, [0, 1, 2, 3, 4, 5]), (5, [0, 1, 2, 3, 4, 5, 6])]
)
def test_groups_that_tell_nothing_are_replaced_so_many_times(
    pays_even_seeds: str, collected: Callable[..., list[list[Episode]]], dynamic_sampling_rounds: int, seeds: list[int]
) -> None:
    groups = collected(env__id=pays_even_seeds, grpo__dynamic_sampling_rounds=dynamic_sampling_rounds)
    assert [{episode.seed % 1000 for episode in group} for group in groups] == [{seed} for seed in seeds]
    assert [[episode.group for episode in group] for group in groups] == [[number] * 8 for number in range(len(seeds))]
    telling = sum(len({episode.total_reward for episode in group}) > 1 for group in groups)
    assert telling == sum(seed % 2 == 0 for seed in seeds)


def test_with_all_seats_a_group_compares_the_episodes_of_one_seat(
    collected: Callable[..., list[list[Episode]]],
) -> None:
    groups = collected(grpo__seats="all", grpo__dynamic_sampling_rounds=2, env__random_opening=3)
    assert len(groups) % 2 == 0
    assert 8 <= len(groups) <= 24
    for number, group in enumerate(groups):
        assert [episode.player for episode in group] == [number % 2] * 8
        assert {episode.seed for episode in group} == {groups[number - number % 2][0].seed}
        assert {episode.group for episode in group} == {number}
    for first, second in zip(groups[::2], groups[1::2], strict=True):
        assert [a.outcome == "win" for a in first] == [b.outcome in ("loss", "invalid") for b in second]
    config = settings(grpo={"group_size": 8, "advantage": "none"})
    advantage(config, groups)
    for group in groups:
        mean = sum(episode.total_reward for episode in group) / 8
        for episode in group:
            assert [turn.advantage for turn in episode.turns] == pytest.approx(
                [episode.total_reward - mean] * len(episode.turns), abs=1e-9
            )


def test_enough_groups_that_tell_something_need_no_refill(collected: Callable[..., list[list[Episode]]]) -> None:
    """Two seats make twice as many groups as starts; that is no reason to take any back."""
    groups = collected(grpo__seats="all", grpo__dynamic_sampling_rounds=3, env__random_opening=3)
    tells = [len({episode.total_reward for episode in group}) > 1 for group in groups]
    assert sum(tells) > 4
    assert sum(map(any, zip(tells[::2], tells[1::2], strict=True))) == 4
