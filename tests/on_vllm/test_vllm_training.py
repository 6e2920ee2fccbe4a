"""Training from end to end: each step's episodes are sampled from the version that the step before left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from both import Both

from algos import grpo
from algos.data.episodes import Episode
from algos.run_folder.write import Tracker

CONFIG = Path(__file__).parents[2] / "configs" / "grpo_tictactoe_tiny.yaml"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Episode]]:
    """The episodes of each step, as the run writes them down."""
    episodes: dict[int, list[Episode]] = {}
    write = Tracker.write_episodes

    def noted(self: Tracker, step: int, played: Sequence[Episode], *rest: Any) -> None:
        episodes[step] = list(played)
        write(self, step, played, *rest)

    monkeypatch.setattr(Tracker, "write_episodes", noted)
    return episodes


def train(run: Path, model: str, **engine: object) -> list[dict[str, float]]:
    """Two steps of GRPO; the metrics of each."""
    settings: dict[str, object] = {
        "config": CONFIG,
        "model.path": model,
        "run.dir": run,
        "run.max_steps": 2,
        "run.trackers": "[]",
        "rollout.episodes": 32,
        "eval.episodes": 16,
        "grpo.minibatches": 1,
        "grpo.tis_cap": 2.0,
        **{f"engine.{name}": value for name, value in engine.items()},
    }
    grpo.main([word for name, value in settings.items() for word in (f"--{name}", str(value))])
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["vllm_server", "vllm_colocate"])
def test_every_episode_is_of_the_version_before_its_step(
    kind: str, served: Both, written: dict[int, list[Episode]], tmp_path: Path
) -> None:
    steps = train(tmp_path, served.config.model.path, kind=kind, url=served.config.engine.url)
    assert [step["step"] for step in steps] == [1, 2]
    for step, episodes in written.items():
        assert len(episodes) == 32
        assert {turn.policy_version for episode in episodes for turn in episode.turns} == {step - 1}
    assert all(step["policy/engine_difference"] < 1e-3 for step in steps)
    assert steps[1]["reward/std"] > 0
