"""Evaluations: intervals against published values, counts that add up."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from accelerate import Accelerator

import llm_gym  # noqa: F401 - registers the environments
from algos.model.load import load_model
from algos.rollout.chat import Chat
from algos.rollout.hf import HFEngine
from algos.rollout.play import Rollout
from algos.rollout.records import Episode, Turn
from algos.run.evaluate import evaluate, score, score_by_seat, wilson


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
    envs = [gymnasium.make("llmgym/TicTacToe-v0", seat="alternate") for _ in range(16)]
    rollout = Rollout(envs, HFEngine(model, chat.stop_ids, 8), chat, "id", "turn", 9, 512)
    accelerator = Accelerator()
    torch.manual_seed(1)
    first = evaluate(rollout, 24, 1.0, accelerator)
    before = torch.get_rng_state()
    assert evaluate(rollout, 24, 1.0, accelerator) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert first["episodes"] == 24
    assert [first["seats"][seat]["episodes"] for seat in "01"] == [12, 12]
    assert sum(first[f"{name}_rate"] for name in ("win", "draw", "loss", "invalid")) == pytest.approx(1.0)
