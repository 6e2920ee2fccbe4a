"""Stages over environments and opponents, and the starts drawn from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import llm_gym  # noqa: F401 - registers its environments
from algos.config.load import dump, load
from algos.config.schema import Config, CurriculumSection, EnvSection, ReplaySection
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start
from algos.errors import ConfigError
from algos.rollout.curriculum import Curriculum, draw_starts
from algos.rollout.replay import Replay

DOCS = Path(__file__).parents[3] / "docs"
ALONE = EnvSection(id="llmgym/Nim-v0")
STAGES: list[dict[str, Any]] = [
    {"name": "easy", "envs": [{"id": "a", "opponent": "random"}], "threshold": 0.6, "window": 10},
    {"name": "hard", "envs": [{"id": "a", "opponent": ["random", "mcts"]}, {"id": "b", "weight": 3}]},
]


class WithStages(Config):
    curriculum: CurriculumSection = CurriculumSection()
    replay: ReplaySection = ReplaySection()


def curriculum(stages: list[dict[str, Any]] = STAGES, **first: Any) -> Curriculum:
    changed = [{**stages[0], **first}, *stages[1:]]
    return Curriculum(CurriculumSection.model_validate({"stages": changed}), ALONE)


def episodes(*outcomes: str, replayed: bool = False) -> list[Episode]:
    return [Episode("a", 0, outcome=outcome, replayed=replayed) for outcome in outcomes]


def through_a_file(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    torch.save(state, folder / "state.pt")
    loaded: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return loaded


def test_a_stage_ends_when_the_window_reaches_the_threshold() -> None:
    stages = curriculum()
    stages.record(episodes(*["win"] * 5, *["loss"] * 5))
    assert stages.stage == 0
    stages.record(episodes("loss"))
    assert stages.stage == 0, "the oldest win left the window"
    stages.record(episodes("win", "solved"))
    assert stages.stage == 0
    stages.record(episodes(*["loss"] * 4, *["win"] * 6))
    assert stages.stage == 1


@pytest.mark.parametrize(("wins", "threshold"), [(110, 0.55), (58, 0.29), (1, 0.005), (200, 1.0)])
def test_a_rate_equal_to_the_threshold_is_enough(wins: int, threshold: float) -> None:
    for count, stage in ((wins - 1, 0), (wins, 1)):
        stages = curriculum(threshold=threshold, window=200)
        stages.record(episodes(*["win"] * count, *["draw"] * (200 - count)))
        assert stages.stage == stage


def test_no_stage_ends_before_its_window_is_full() -> None:
    stages = curriculum()
    stages.record(episodes(*["win"] * 9))
    assert stages.stage == 0
    stages.record(episodes("win"))
    assert stages.stage == 1


def test_no_stage_ends_before_min_episodes() -> None:
    stages = curriculum(min_episodes=25)
    stages.record(episodes(*["win"] * 24))
    assert stages.stage == 0
    stages.record(episodes("win"))
    assert stages.stage == 1


def test_neither_draws_nor_invalid_nor_truncated_episodes_are_successes() -> None:
    stages = curriculum()
    stages.record(episodes(*["draw", "invalid", "truncated", "failed", "loss"] * 2))
    assert stages.metrics() == {"curriculum/stage": 0.0, "curriculum/success_rate": 0.0}


def test_replayed_episodes_do_not_count() -> None:
    stages = curriculum()
    stages.record(episodes(*["win"] * 50, replayed=True))
    assert stages.metrics() == {"curriculum/stage": 0.0}
    stages.record(episodes(*["win"] * 10) + episodes(*["loss"] * 50, replayed=True))
    assert stages.stage == 1


def test_the_window_starts_empty_in_a_new_stage_and_the_last_stage_stays() -> None:
    stages = curriculum([STAGES[0], STAGES[0], STAGES[1]])
    stages.record(episodes(*["win"] * 40))
    assert stages.metrics() == {"curriculum/stage": 1.0}, "one stage at a time, whatever the size of a step"
    for _ in range(5):
        stages.record(episodes(*["win"] * 40))
    assert stages.stage == 2
    stages.record(episodes(*["loss"] * 400))
    assert stages.stage == 2, "never back"


def test_environments_are_drawn_from_the_present_stage_by_weight() -> None:
    stages, rng = curriculum(), np.random.default_rng(0)
    assert {stages.draw(rng) for _ in range(50)} == {EnvKey("a", '{"opponent": "random"}')}
    stages.record(episodes(*["win"] * 10))
    drawn = [stages.draw(rng) for _ in range(4000)]
    assert drawn.count(EnvKey("b")) / 4000 == pytest.approx(0.75, abs=0.03)
    assert {spec.id for spec in drawn} == {"a", "b"}


def test_every_environment_of_every_stage_is_known_before_it_is_reached() -> None:
    assert curriculum([*STAGES[:1], *STAGES]).envs == [
        EnvKey("a", '{"opponent": "random"}'),
        EnvKey("a", '{"opponent": ["random", "mcts"]}'),
        EnvKey("b"),
    ]


def test_without_stages_the_environment_of_the_settings_is_played() -> None:
    alone = Curriculum(CurriculumSection(), EnvSection.model_validate({"id": "x", "seat": 0}))
    alone.record(episodes(*["win"] * 1000))
    assert alone.draw(np.random.default_rng(0)) == EnvKey("x", '{"seat": 0}')
    assert alone.metrics() == {}


def test_a_resumed_curriculum_goes_on_as_the_first_would_have(tmp_path: Path) -> None:
    first, resumed = curriculum(), curriculum()
    first.record(episodes(*["loss"] * 3, *["win"] * 6))
    resumed.load_state_dict(through_a_file(first.state_dict(), tmp_path))
    assert resumed.metrics() == first.metrics()
    resumed.record(episodes("loss"))
    assert resumed.stage == 1, "6 of the newest 10"
    again = curriculum()
    again.load_state_dict(through_a_file(resumed.state_dict(), tmp_path))
    assert again.draw(np.random.default_rng(3)) == resumed.draw(np.random.default_rng(3))
    assert again.metrics() == resumed.metrics() == {"curriculum/stage": 1.0}


def test_min_episodes_counts_on_after_a_resume(tmp_path: Path) -> None:
    first, resumed = curriculum(min_episodes=25), curriculum(min_episodes=25)
    first.record(episodes(*["win"] * 20))
    resumed.load_state_dict(through_a_file(first.state_dict(), tmp_path))
    resumed.record(episodes(*["win"] * 5))
    assert resumed.stage == 1


def test_a_checkpoint_from_a_stage_that_is_gone_is_refused() -> None:
    with pytest.raises(ConfigError, match="the checkpoint is in stage 3, but the settings have 2 stages"):
        curriculum().load_state_dict({"stage": 2, "episodes": 0, "window": []})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0}, "curriculum.stages.0.threshold: Input should be greater than 0 (got 0)"),
        ({"threshold": 1.1}, "curriculum.stages.0.threshold: Input should be less than or equal to 1 (got 1.1)"),
        ({"threshold": None}, "curriculum: stage 'easy' is not the last: it needs a threshold in (0, 1]"),
        ({"window": 0}, "curriculum.stages.0.window: Input should be greater than or equal to 1 (got 0)"),
        ({"envs": []}, "curriculum.stages.0.envs: List should have at least 1 item"),
        ({"envs": [{"opponent": "random"}]}, "curriculum.stages.0.envs.0.id: Field required"),
        ({"envs": [{"id": "a", "weight": 0}]}, "curriculum.stages.0.envs.0.weight: Input should be greater than 0"),
        ({"treshold": 0.5}, "curriculum.stages.0.treshold: Extra inputs are not permitted"),
    ],
)
def test_impossible_stages_are_one_clear_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"curriculum": {"stages": [{**STAGES[0], **change}, STAGES[1]]}}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(WithStages, ["--config", str(file)])


def test_stages_survive_being_written_and_read_as_settings(tmp_path: Path) -> None:
    config = WithStages.model_validate({"curriculum": {"stages": STAGES}})
    (tmp_path / "config.yaml").write_text(dump(config, {}))
    again, _, _ = load(WithStages, ["--config", str(tmp_path / "config.yaml")])
    assert Curriculum(again.curriculum, ALONE).envs == curriculum().envs


def test_the_example_of_the_documentation_loads_and_its_environments_exist(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(curriculum:.*?)```", (DOCS / "curriculum.md").read_text(), re.DOTALL)
    (tmp_path / "config.yaml").write_text(text)
    config, _, _ = load(WithStages, ["--config", str(tmp_path / "config.yaml")])
    assert [(s.name, s.threshold) for s in config.curriculum.stages] == [("easy", 0.6), ("medium", 0.5), ("hard", 0.4)]
    for spec in Curriculum(config.curriculum, ALONE).envs:
        observation, _ = gymnasium.make(spec.id, **spec.kwargs).reset(seed=0)
        assert observation


settings = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=2), settings))
def test_an_environment_with_its_settings_is_hashable_and_gives_them_back(given_: dict[str, Any]) -> None:
    spec = EnvKey.of(EnvSection.model_validate({"id": "x", **given_}))
    assert spec.kwargs == given_
    backwards = dict(reversed(given_.items()))
    assert hash(spec) == hash(EnvKey.of(EnvSection.model_validate({"id": "x", **backwards})))


@pytest.mark.parametrize("value", [print, float("nan"), {1: 2}, (1, 2)])
def test_a_setting_that_no_checkpoint_gives_back_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="x: opponent must be made of text, numbers"):
        EnvKey.of(EnvSection.model_validate({"id": "x", "opponent": value}))


def failed(n: int) -> list[Episode]:
    return [Episode("a", seed, outcome="failed", start=Start(EnvKey("a"), seed)) for seed in range(n)]


def test_the_share_of_replayed_starts_is_as_set_and_none_comes_twice() -> None:
    stages, replay = curriculum(), Replay(ReplaySection(share=0.3))
    replay.record(failed(1000))
    tasks = draw_starts(2000, stages, replay, np.random.default_rng(0), first_seed=10**6)
    replayed = [task for task in tasks if task in replay]
    assert len(replayed) / 2000 == pytest.approx(0.3, abs=0.03)
    assert len(set(replayed)) == len(replayed)
    for i, task in enumerate(tasks):
        assert task in replay or task == Start(EnvKey("a", '{"opponent": "random"}'), 10**6 + i)


def test_starts_are_fresh_where_the_buffer_has_no_other() -> None:
    replay = Replay(ReplaySection(share=0.9))
    replay.record(failed(3))
    tasks = draw_starts(100, curriculum(), replay, np.random.default_rng(0), first_seed=10**6)
    assert len(set(tasks)) == 100
    assert sum(task in replay for task in tasks) == 3


def test_what_the_buffer_holds_never_moves_the_other_starts() -> None:
    stages, empty, full = curriculum(), Replay(ReplaySection(share=0.3)), Replay(ReplaySection(share=0.3))
    stages.record(episodes(*["win"] * 10))
    full.record(failed(1000))
    rngs = np.random.default_rng(1), np.random.default_rng(1)
    fresh = draw_starts(200, stages, empty, rngs[0], first_seed=10**6)
    mixed = draw_starts(200, stages, full, rngs[1], first_seed=10**6)
    assert 0 < sum(task in full for task in mixed) < 200
    assert all(m == f for m, f in zip(mixed, fresh, strict=True) if m not in full)
    assert rngs[0].random() == rngs[1].random()
