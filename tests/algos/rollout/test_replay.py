"""The buffer of failed tasks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algos.config.schema import ReplaySection
from algos.data.episodes import Episode, Turn
from algos.data.tasks import EnvKey, Start
from algos.rollout.replay import Replay

GAME = EnvKey("game")


def buffer(**settings: Any) -> Replay:
    return Replay(ReplaySection(**{"share": 0.3, **settings}))


def played(seed: int, *outcomes: str, env: EnvKey = GAME, rewards: dict[str, float] | None = None) -> list[Episode]:
    earned = rewards or {"win": 1.0, "solved": 1.0, "draw": 0.0}
    return [
        Episode(env.id, seed, turns=[Turn([], [], [], reward=earned.get(o, -1.0))], outcome=o, start=Start(env, seed))
        for o in outcomes
    ]


def task(seed: int) -> Start:
    return Start(GAME, seed)


def tasks_of(replay: Replay) -> list[int]:
    return [seed for _, _, seed, _ in replay.state_dict()["starts"]]


def test_failed_tasks_enter_and_solved_ones_do_not() -> None:
    replay = buffer()
    for seed, outcome in enumerate(["loss", "win", "draw", "solved", "failed", "invalid", "truncated"]):
        replay.record(played(seed, outcome))
    assert tasks_of(replay) == [0, 2, 4, 5, 6]


def test_a_group_enters_by_its_mean_score() -> None:
    replay = buffer()
    replay.record(played(0, *["win"] * 5, *["loss"] * 3) + played(1, *["win"] * 4, *["loss"] * 4))
    assert tasks_of(replay) == [1]
    assert replay.badness(task(1)) == 0.5
    strict = buffer(low_score=0.0)
    strict.record(played(0, "win", "loss") + played(1, "loss", "loss"))
    assert tasks_of(strict) == [1]


def test_failures_are_graded_by_where_their_return_lies() -> None:
    replay, other = buffer(), EnvKey("other")
    replay.record(played(0, "loss") + played(1, "draw") + played(2, "win"))
    assert [replay.badness(task(seed)) for seed in (0, 1)] == [1.0, 0.75]
    replay.record(played(3, "failed", rewards={"failed": 500.0}, env=other))
    assert replay.badness(Start(other, 3)) == 1.0, "one return alone is no range, and other games' do not count"
    replay.record(played(4, "failed", rewards={"failed": 700.0}, env=other))
    assert replay.badness(Start(other, 4)) == 0.5, "the best failure is still a failure"


def test_a_mastered_task_leaves_and_one_nearly_mastered_stays() -> None:
    replay = buffer()
    replay.record(played(0, "loss", "loss") + played(1, "loss", "loss"))
    replay.record(played(0, *["win"] * 3, "loss") + played(1, "win", "solved"))
    assert tasks_of(replay) == [0]
    assert replay.badness(task(0)) == 0.25, "renewed, though it would not enter now"
    assert replay.metrics() == {"replay/size": 1.0, "replay/badness": 0.25, "replay/mastered": 1.0}


def test_the_oldest_tasks_leave_a_full_buffer() -> None:
    replay = buffer(size=3)
    for seed in range(3):
        replay.record(played(seed, "loss"))
    replay.record(played(0, "loss"))
    replay.record(played(3, "loss") + played(4, "loss"))
    assert tasks_of(replay) == [2, 3, 4], "failing again keeps no place: what cannot be won leaves too"


def test_the_chance_to_be_drawn_is_proportional_to_badness() -> None:
    replay, rng = buffer(), np.random.default_rng(0)
    replay.record(played(9, "win") + played(0, "loss", "loss") + played(1, "loss", "win") + played(2, "draw", "loss"))
    assert [replay.badness(task(seed)) for seed in range(3)] == [1.0, 0.5, 0.875]
    counts = Counter(replay.draw(rng) for _ in range(20_000))
    for seed, share in enumerate([1.0 / 2.375, 0.5 / 2.375, 0.875 / 2.375]):
        assert counts[task(seed)] / 20_000 == pytest.approx(share, abs=0.015)


def test_excluded_tasks_are_not_drawn() -> None:
    replay, rng = buffer(), np.random.default_rng(0)
    assert replay.draw(rng) is None
    replay.record(played(0, "loss") + played(1, "loss"))
    assert {replay.draw(rng, [task(0)]) for _ in range(20)} == {task(1)}
    assert replay.draw(rng, [task(0), task(1)]) is None


def test_episodes_without_a_task_and_a_share_of_zero_leave_no_trace() -> None:
    replay, off = buffer(), buffer(share=0.0)
    replay.record([Episode("game", 0, outcome="loss")])
    off.record(played(0, "loss"))
    assert (len(replay), len(off), off.metrics()) == (0, 0, {})


def test_a_resumed_buffer_draws_and_goes_on_as_the_first(tmp_path: Path) -> None:
    first, resumed, rng = buffer(size=20), buffer(size=20), np.random.default_rng(0)
    env = EnvKey("game", '{"opponent": ["random", "mcts"]}')

    def step(replay: Replay, seed: int) -> None:
        outcomes = np.random.default_rng(seed).choice(["win", "draw", "loss"], size=(15, 2))
        replay.record([e for i, pair in enumerate(outcomes) for e in played(seed * 10 + i, *pair, env=env)])

    first.record(played(999, "invalid", env=env, rewards={"invalid": -9.0}))  # the lowest return, never met again
    for seed in range(4):
        step(first, seed)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in range(4, 7):
        draws = [[replay.draw(np.random.default_rng([seed, i])) for i in range(10)] for replay in (first, resumed)]
        assert draws[0] == draws[1]
        step(first, seed)
        step(resumed, seed)
        assert first.state_dict() == resumed.state_dict()
        assert first.metrics() == resumed.metrics()
    assert first.metrics()["replay/mastered"] > 0
    assert first.draw(rng) in first


def test_a_smaller_size_after_a_resume_keeps_the_newest() -> None:
    first, resumed = buffer(), buffer(size=2)
    first.record([e for seed in range(5) for e in played(seed, "loss")])
    resumed.load_state_dict(first.state_dict())
    assert tasks_of(resumed) == [3, 4]


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": -0.1}, {"size": 0}, {"low_score": 1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="Input should be"):
        ReplaySection.model_validate(wrong)


outcomes = st.sampled_from(["win", "solved", "draw", "loss", "failed", "truncated"])
calls = st.lists(st.lists(st.tuples(st.integers(0, 12), outcomes, st.floats(-5, 5)), max_size=12), max_size=8)


@given(calls, st.integers(1, 6))
def test_whatever_is_recorded_the_buffer_stays_within_its_bounds(
    record: list[list[tuple[int, str, float]]], size: int
) -> None:
    replay, last = buffer(size=size), {}
    for call in record:
        replay.record([e for seed, o, reward in call for e in played(seed, o, rewards={o: reward})])
        for seed in {seed for seed, _, _ in call}:
            last[seed] = [o for s, o, _ in call if s == seed]
        assert len(replay) <= size
    for seed in tasks_of(replay):
        assert 0.0 < replay.badness(task(seed)) <= 1.0
        assert not all(o in ("win", "solved") for o in last[seed]), "a mastered task has left"
