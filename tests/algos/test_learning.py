"""Learning is real: returns rise by what the environment rewards, and only then."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from algos import grpo
from algos.run.config import EnvSection
from algos.sft import SftSection, tiny_model

FAVOURITE = "\\boxed{7}"


class Bandit(gymnasium.Env[str, str]):
    """One turn, nine arms, one of them pays. A plain Gymnasium environment with none of our keys in ``info``."""

    observation_space = action_space = gymnasium.spaces.Text(1000, charset=string.printable)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "You are X.\n0 1 2\n3 4 5\n6 7 8", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "over", float(action == FAVOURITE), True, False, {}


@pytest.fixture
def bandit() -> Iterator[str]:
    gymnasium.register("Bandit-v0", entry_point=Bandit)
    yield "Bandit-v0"
    del gymnasium.registry["Bandit-v0"]


@pytest.fixture
def returns(tmp_path: Path, tiny_folder: Path) -> Callable[..., list[float]]:
    """Trains, and gives the mean return of each step."""

    def train(**changed: Any) -> list[float]:
        settings: dict[str, Any] = {
            "run__dir": tmp_path / "run",
            "run__trackers": "[]",
            "model__path": tiny_folder,
            "rollout__episodes": 64,
            "rollout__max_new_tokens": 8,
            "grpo__group_size": 64,
            "optim__lr": 2e-3,
            "eval__episodes": 0,
        }
        settings |= changed
        words = [w for name, value in settings.items() for w in ("--" + name.replace("__", "."), str(value))]
        grpo.main([*words, "--overwrite"])
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["reward/mean"] for line in lines]

    return train


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_the_arm_that_pays_is_found_in_15_steps(bandit: str, returns: Callable[..., list[float]], context: str) -> None:
    earned = returns(env__id=bandit, run__max_steps=15, rollout__context=context)
    assert earned[0] < 0.3
    assert earned[-1] > 0.9


def test_it_is_not_found_where_advantages_are_dealt_out_at_random(
    bandit: str, returns: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    real = grpo.group_relative

    def dealt(earned: torch.Tensor, normalise: Any) -> torch.Tensor:
        return real(earned, normalise)[:, torch.randperm(earned.shape[1], generator=generator)]

    monkeypatch.setattr(grpo, "group_relative", dealt)
    earned = returns(env__id=bandit, run__max_steps=15)
    assert max(earned[-3:]) < 0.4


def test_it_is_not_found_without_a_learning_rate(bandit: str, returns: Callable[..., list[float]]) -> None:
    earned = returns(env__id=bandit, run__max_steps=4, optim__lr=1e-9)
    assert sum(earned) / len(earned) < 0.3


@pytest.mark.slow
def test_tic_tac_toe_improves_significantly_from_the_warm_start(tmp_path: Path) -> None:
    warm = tiny_model(EnvSection(), "turn", SftSection(episodes=500, steps=100, batch=128))

    def evaluations(name: str, lr: float, steps: int) -> tuple[dict[str, float], dict[str, float]]:
        settings = {
            "run.dir": tmp_path / name,
            "run.trackers": "[]",
            "run.max_steps": steps,
            "run.save_every": 100,
            "model.path": warm,
            "env.seat": "alternate",
            "rollout.episodes": 128,
            "rollout.max_new_tokens": 8,
            "grpo.advantage": "none",
            "optim.lr": lr,
            "eval.episodes": 300,
        }
        grpo.main([word for key, value in settings.items() for word in (f"--{key}", str(value))])
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return summary["before"], summary["after"]

    before, after = evaluations("learning", 1e-3, 30)
    assert after["mean_return_low"] > before["mean_return_high"] + 0.2
    assert after["invalid_rate_high"] < before["invalid_rate_low"]
    assert after["win_rate_low"] > before["win_rate_high"]
    still_before, still_after = evaluations("still", 1e-9, 5)
    assert still_before == before
    assert still_after["mean_return_low"] < before["mean_return"] < still_after["mean_return_high"]
