"""Evaluations: intervals against published values, counts that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import llm_gym  # noqa: F401 - registers the environments
from algos import grpo
from algos.config.schema import Config, EnvSection, RolloutSection
from algos.data.episodes import Episode, Turn
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.errors import ConfigError
from algos.evaluation.evaluator import Evaluator, check_evaluations, play, score, score_by_seat, wilson
from algos.evaluation.score import compare
from algos.model.chat import Chat
from algos.model.load import load_model
from algos.rollout.playing import ModelPlayer
from algos.rollout.single_agent import EpisodeRunner


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (15, 20, 0.5313, 0.8881),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_stays_a_probability() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for n in (1, 7, 400):
        for k in range(n + 1):
            low, high = wilson(k, n)
            assert 0.0 <= low <= k / n <= high <= 1.0
            assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.85])
def test_wilson_covers_the_true_rate_95_times_in_100(rate: float) -> None:
    n, times = 400, 20_000
    counts = np.random.default_rng(0).binomial(n, rate, times)
    ends = np.array([wilson(k, n) for k in range(n + 1)])[counts]
    covered = ((ends[:, 0] <= rate) & (rate <= ends[:, 1])).mean()
    assert 0.93 < covered < 0.975


def episode(outcome: str, rewards: list[float], player: int = 0) -> Episode:
    turns = [Turn([1], [2], [0.0], reward=reward) for reward in rewards]
    return Episode("env", 0, outcome=outcome, turns=turns, player=player)


GAMES = [
    episode("win", [0.0, 1.0]),
    episode("win", [0.0, 0.0, 1.0]),
    episode("draw", [0.0], player=1),
    episode("loss", [-1.0], player=1),
    episode("invalid", [-1.5], player=1),
]


def test_rates_and_the_mean_return_are_those_of_the_episodes() -> None:
    result = score(GAMES)
    assert [result[f"{name}_rate"] for name in ("win", "draw", "loss", "invalid")] == [0.4, 0.2, 0.2, 0.2]
    assert (result["win_rate_low"], result["win_rate_high"]) == wilson(2, 5)
    assert (result["episodes"], result["mean_turns"]) == (5, 8 / 5)
    returns = np.array([1.0, 1.0, 0.0, -1.0, -1.5])
    half = 1.96 * returns.std(ddof=1) / np.sqrt(5)
    assert result["mean_return"] == pytest.approx(-0.1)
    assert result["mean_return_low"] == pytest.approx(-0.1 - half, rel=1e-4)
    assert result["mean_return_high"] == pytest.approx(-0.1 + half, rel=1e-4)


def test_games_of_one_player_are_won_by_solving_them() -> None:
    result = score([episode("solved", [1.0]), episode("failed", [-1.0]), episode("failed", [-1.0])])
    assert [round(result[f"{name}_rate"] * 3) for name in ("win", "draw", "loss", "invalid")] == [1, 0, 2, 0]


def test_no_episodes_score_nothing() -> None:
    result = score([])
    assert (result["episodes"], result["win_rate"], result["mean_return"]) == (0, 0.0, 0.0)
    assert (result["win_rate_low"], result["win_rate_high"]) == (0.0, 1.0)


def test_seats_are_scored_apart_where_there_are_several() -> None:
    result = score_by_seat(GAMES)
    assert result["seats"] == {"0": score(GAMES[:2]), "1": score(GAMES[2:])}
    assert "seats" not in score_by_seat(GAMES[:2])


def test_an_evaluation_plays_fixed_games_and_repeats_itself(tiny_folder: Path) -> None:
    model, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    env = EnvKey.of(EnvSection(seat="alternate"))
    starts = [Start(env, seed) for seed in range(24)]
    runner, player = EpisodeRunner(RolloutSection()), ModelPlayer(HFEngine(model, chat.stop_ids, 8), chat)

    def evaluate() -> dict[str, Any]:
        return score_by_seat(play(runner, player, starts, Accelerator(), parallel=16))

    torch.manual_seed(1)
    first = evaluate()
    before, own = torch.get_rng_state(), player.generator.get_state()
    assert evaluate() == first
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(player.generator.get_state(), own)
    assert first["episodes"] == 24
    assert [first["seats"][seat]["episodes"] for seat in "01"] == [12, 12]
    assert sum(first[f"{name}_rate"] for name in ("win", "draw", "loss", "invalid")) == pytest.approx(1.0)


def test_what_the_last_info_counts_is_averaged() -> None:
    infos: list[dict[str, Any]] = [
        {"kept": 3, "ran": True, "rules": [True, True, False], "task_id": 7, "said": "x", "tests": []},
        {"kept": 1, "ran": False, "rules": [True, False, False], "task_id": 9, "said": "y", "tests": []},
    ]
    episodes = [episode("failed", [0.0]), episode("failed", [0.0])]
    for one, info in zip(episodes, infos, strict=True):
        one.info = info
    result = score(episodes)
    assert (result["kept"], result["ran_rate"], result["rules_rates"]) == (2.0, 0.5, [1.0, 0.5, 0.0])
    assert (result["ran_rate_low"], result["ran_rate_high"]) == wilson(1, 2)
    assert not {"task_id", "said", "tests"} & set(result)


def test_several_samples_of_a_start_are_one_trial() -> None:
    """Ten starts, each solved four times or never: as sure as ten episodes, not as forty."""
    outcomes = ["solved"] * 20 + ["failed"] * 20
    episodes = [episode(outcome, [float(outcome == "solved")]) for outcome in outcomes]
    result, single = score(episodes, samples=4), score(episodes[::4])
    for name in ("win_rate_low", "win_rate_high", "mean_return_low", "mean_return_high"):
        assert result[name] == pytest.approx(single[name])
    assert result["pass_at_1"] == result["pass_at_4"] == 0.5


def test_a_player_does_not_differ_from_itself_and_differs_from_a_better_one() -> None:
    lost = [episode("loss", [-1.0]) for _ in range(20)]
    won = [episode("win" if i % 2 else "loss", [1.0 if i % 2 else -1.0]) for i in range(20)]
    same = compare(won, won)
    assert (same["success_difference"], same["success_p"], same["return_p"]) == (0.0, 1.0, 1.0)
    other = compare(won, lost)
    assert (other["success_difference"], other["better"], other["worse"]) == (0.5, 10, 0)
    assert other["success_p"] == pytest.approx(2 / 2**10)
    assert other["return_p"] < 0.01
    with pytest.raises(ValueError, match="same starts"):
        compare(won, lost[1:])


def evaluator(folder: Path, out: Path, **settings: Any) -> Evaluator:
    model, tokenizer = load_model(folder)
    chat = Chat(tokenizer)
    rollout = {"max_new_tokens": 8, "episodes": 16}
    config = Config.model_validate({"run": {"dir": out}, "rollout": rollout, **settings})
    return Evaluator(config, HFEngine(model, chat.stop_ids, 8), chat, Accelerator())


def test_evaluations_are_played_when_they_are_due(tiny_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "env": {"seat": "alternate"},
        "eval": {
            "episodes": 20,
            "every": 4,
            "extra": [
                {"name": "short", "id": "llmgym/PasswordGame-v0", "num_rules": 2, "max_turns": 2}
                | {"episodes": 4, "samples": 2, "every": 3, "before": False},
            ],
        },
    }
    ours = evaluator(tiny_folder, tmp_path, **settings)
    assert [step for step in range(1, 13) if ours.due(step)] == [3, 4, 6, 8, 9, 12]
    before, _ = ours.run(0, "before")
    assert "extra" not in before
    assert sorted(before["seats"]) == ["0", "1"]
    summary, metrics = ours.run(3, "during")
    assert summary["episodes"] == 0
    assert {name.split("/")[0] for name in metrics} == {"short"}
    assert metrics["short/episodes"] == 8
    assert 0 <= metrics["short/rules_satisfied"] <= 2
    after, metrics = ours.run(12, "after")
    assert {key: value for key, value in after.items() if key != "extra"} == before
    assert after["extra"]["short"] == summary["extra"]["short"]
    assert metrics["eval/win_rate"] == before["win_rate"]
    lines = (tmp_path / "evaluations" / "short_000003.jsonl").read_text().splitlines()
    assert [(json.loads(line)["seed"], json.loads(line)["sample"]) for line in lines[:3]] == [(0, 0), (0, 1), (1, 0)]


def test_small_games_are_evaluated_exactly(tiny_folder: Path, tmp_path: Path) -> None:
    kuhn, _ = evaluator(tiny_folder, tmp_path, env={"id": "llmgym/KuhnPoker-v0"}, eval={"episodes": 2}).run(0, "before")
    assert 0.4 < kuhn["nash_conv"] <= 4
    assert kuhn["exact"]["decisions"] == 12
    sampled, _ = evaluator(tiny_folder, tmp_path, eval={"episodes": 2}).run(0, "before")
    assert "nash_conv" not in sampled  # 4,520 decisions would be asked about
    greedy, metrics = evaluator(tiny_folder, tmp_path, eval={"episodes": 2, "temperature": 0}).run(0, "before")
    assert greedy["worst_value"] == metrics["eval/worst_value"] == -1.0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"extra": [{"name": "eval"}]}, "two evaluations called 'eval'"),
        ({"extra": [{"name": "x", "episodes": "all"}]}, "x: llmgym/TicTacToe-v0 has no list of tasks"),
        ({"extra": [{"name": "x", "episodes": 0}]}, "x: episodes must be at least 1"),
        ({"extra": [{"name": "x", "id": "llmgym/Nothing-v0"}]}, "Nothing"),
        ({"extra": [{"name": "x", "sampels": 3}]}, "sampels"),
    ],
)
def test_a_wrong_evaluation_is_refused_before_anything_starts(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_evaluations(Config.model_validate({"eval": settings}))


def test_what_cannot_be_walked_is_refused_where_it_must_be(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval.exact: .* PasswordGame is for 1"):
        evaluator(tiny_folder, tmp_path, env={"id": "llmgym/PasswordGame-v0"}, eval={"exact": True})


def test_evaluating_changes_no_run(tiny_folder: Path, tmp_path: Path) -> None:
    def metrics(name: str, *words: str) -> list[dict[str, float]]:
        given = {"model.path": tiny_folder, "run.dir": tmp_path / name, "run.max_steps": 3, "run.trackers": "[]"}
        given |= {"rollout.episodes": 16, "rollout.max_new_tokens": 8, "grpo.group_size": 4, "optim.lr": 1e-3}
        grpo.main([word for key, value in given.items() for word in (f"--{key}", str(value))] + list(words))
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        apart = ("time/", "eval/", "also/")
        return [{key: value for key, value in line.items() if not key.startswith(apart)} for line in lines]

    also = "[{name: also, id: llmgym/KuhnPoker-v0, episodes: 6, samples: 2, max_new_tokens: 5}]"
    without = metrics("without", "--eval.episodes", "0")
    assert metrics("with", "--eval.episodes", "10", "--eval.every", "1", "--eval.extra", also) == without
