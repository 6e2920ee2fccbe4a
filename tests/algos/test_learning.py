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

from algos import grpo, ppo, spiral
from algos.config.schema import EnvSection, SftSection
from algos.maths.advantages import RoleBaseline
from algos.warm_start.embedded import tiny_model
from llm_gym import IllegalAction, TextGame
from llm_gym.games.tic_tac_toe import TicTacToe

FAVOURITE = "\\boxed{7}"


class Bandit(gymnasium.Env[str, str]):
    """One turn, nine arms, one of them pays. A plain Gymnasium environment with none of our keys in ``info``."""

    observation_space = action_space = gymnasium.spaces.Text(1000, charset=string.printable)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "You are X.\n0 1 2\n3 4 5\n6 7 8", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "over", float(action == FAVOURITE), True, False, {}


class Duel(TextGame):
    """Each names a digit without knowing the other's; the higher one wins."""

    num_players = 2
    rules = TicTacToe.rules  # the model knows how to reply to these, and what the digits are
    example = "4"
    perfect_information = False

    def reset(self, rng: Any, options: dict[str, Any] | None = None) -> None:
        self.named: list[int] = []
        self.current_player = 0

    def observe(self, player: int) -> str:
        return f"You are {'XO'[player]}.\n0 1 2\n3 4 5\n6 7 8"

    def legal_actions(self) -> list[str]:
        return [] if self.current_player is None else list("012345678")

    def apply(self, action: str) -> None:
        if action not in self.legal_actions():
            raise IllegalAction(action)
        self.named.append(int(action))
        self.current_player = 1 if len(self.named) == 1 else None

    def returns(self) -> list[float]:
        first, second = self.named
        ahead = float((first > second) - (first < second))
        return [ahead, -ahead]


@pytest.fixture
def duel() -> Iterator[str]:
    gymnasium.register("Duel-v0", entry_point="llm_gym:TextEnv", kwargs={"text_game": Duel})
    yield "Duel-v0"
    del gymnasium.registry["Duel-v0"]


@pytest.fixture
def bandit() -> Iterator[str]:
    gymnasium.register("Bandit-v0", entry_point=Bandit)
    yield "Bandit-v0"
    del gymnasium.registry["Bandit-v0"]


@pytest.fixture
def returns(tmp_path: Path, tiny_folder: Path) -> Callable[..., list[float]]:
    """Trains, and gives the mean return of each step."""

    def train(algorithm: str = "grpo", **changed: Any) -> list[float]:
        settings: dict[str, Any] = {
            "run__dir": tmp_path / "run",
            "run__trackers": "[]",
            "model__path": tiny_folder,
            "rollout__episodes": 64,
            "rollout__max_new_tokens": 8,
            "optim__lr": 2e-3,
            "eval__episodes": 0,
        }
        own = {"grpo": {"grpo__group_size": 64}, "ppo": {"ppo__epochs": 1, "ppo__minibatches": 1}, "spiral": {}}
        settings |= own[algorithm] | changed
        words = [w for name, value in settings.items() for w in ("--" + name.replace("__", "."), str(value))]
        {"grpo": grpo.main, "ppo": ppo.main, "spiral": spiral.main}[algorithm]([*words, "--overwrite"])
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


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_it_is_not_found_without_a_learning_rate(
    bandit: str, returns: Callable[..., list[float]], algorithm: str
) -> None:
    earned = returns(algorithm, env__id=bandit, run__max_steps=4, optim__lr=1e-9)
    assert sum(earned) / len(earned) < 0.3


@pytest.mark.parametrize("unit", ["token", "turn"])
def test_ppo_finds_the_arm_that_pays_in_15_steps(bandit: str, returns: Callable[..., list[float]], unit: str) -> None:
    earned = returns("ppo", env__id=bandit, run__max_steps=15, ppo__gae_unit=unit)
    assert earned[0] < 0.3
    assert earned[-1] > 0.9


def test_ppo_does_not_where_its_advantages_are_dealt_out_at_random(
    bandit: str, returns: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, real = torch.Generator().manual_seed(0), ppo.whiten

    def dealt(advantages: torch.Tensor, **given: Any) -> torch.Tensor:
        return real(advantages, **given)[torch.randperm(len(advantages), generator=generator)]

    monkeypatch.setattr(ppo, "whiten", dealt)
    earned = returns("ppo", env__id=bandit, run__max_steps=15)
    assert max(earned[-3:]) < 0.4


class Dealt(RoleBaseline):
    """Advantages that are somebody's, but not those of the episode."""

    generator = torch.Generator().manual_seed(0)

    def advantages(self, *given: Any) -> list[float]:
        found = super().advantages(*given)
        return [found[i] for i in torch.randperm(len(found), generator=self.generator).tolist()]


@pytest.mark.parametrize("spoilt", ["", "advantages", "learning rate"])
def test_self_play_comes_to_the_strategy_that_nothing_beats_and_only_by_learning(
    duel: str, returns: Callable[..., list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """Naming 8 wins eight times in nine against a random player; a random player wins four times in nine."""
    changed: dict[str, Any] = {"optim__lr": 1e-9, "run__max_steps": 2} if spoilt == "learning rate" else {}
    if spoilt == "advantages":
        monkeypatch.setattr(spiral, "RoleBaseline", Dealt)
    settings = {"env__id": duel, "run__max_steps": 12, "eval__episodes": 100, "spiral__entropy_coef": 0.01} | changed
    returns("spiral", **settings)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    if spoilt:
        assert after["mean_return_low"] < before["mean_return_high"]
        assert after["win_rate"] < 0.7
    else:
        assert after["mean_return_low"] > before["mean_return_high"]
        assert after["win_rate"] > 0.75


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
