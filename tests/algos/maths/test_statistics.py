"""Intervals hold what they promise, tests between players are never too sure, pass@k is unbiased."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from algos.maths.statistics import normal_interval, pass_at_k, permutation_test, sign_test, wilson


@pytest.mark.parametrize(("n", "passed", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (5, 2, 4), (7, 3, 2), (4, 4, 4)])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_pass(n: int, passed: int, k: int) -> None:
    choices = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
    assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_is_unbiased() -> None:
    counts = np.random.default_rng(0).binomial(10, 0.3, 20_000)
    assert np.mean([pass_at_k(10, int(count), 4) for count in counts]) == pytest.approx(1 - 0.7**4, abs=0.005)


def test_pass_at_k_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples a task, not 4"):
        pass_at_k(4, 2, 5)


def test_wilson_over_tasks_covers_the_mean_of_several_samples() -> None:
    """Tasks of unlike difficulty, 4 samples each: one trial a task is wide enough, one a sample would not be."""
    rng, hits, narrow = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        rates = rng.beta(0.4, 0.6, 60)
        mean = (rng.binomial(4, rates) / 4).mean()
        low, high = wilson(mean * 60, 60)
        hits += low <= 0.4 <= high
        low, high = wilson(mean * 240, 240)
        narrow += low <= 0.4 <= high
    assert hits / 2000 > 0.94
    assert narrow / 2000 < 0.85


def test_the_normal_interval_covers_a_mean_return_95_times_in_100() -> None:
    games = np.random.default_rng(0).choice([1.0, 0.0, -1.0, -1.5], p=[0.5, 0.1, 0.3, 0.1], size=(2000, 200))
    covered = 0
    for returns in games.tolist():
        _, low, high = normal_interval(returns)
        covered += low <= 0.05 <= high
    assert 0.93 < covered / 2000 < 0.97


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 0.021484375), (0, 6, 0.03125)])
def test_the_sign_test_is_the_binomial_distribution(better: int, worse: int, p: float) -> None:
    assert sign_test(better, worse) == pytest.approx(p)
    assert sign_test(worse, better) == pytest.approx(p)


def test_the_permutation_test_counts_signs_as_extreme() -> None:
    differences = [3.0, 1.0, 2.0, -0.5, 0.0, 4.0, 1.5]
    moved = [d for d in differences if d]
    sums = [abs(np.dot(signs, moved)) for signs in itertools.product((1, -1), repeat=len(moved))]
    exact = np.mean([total >= abs(sum(moved)) - 1e-9 for total in sums])
    assert permutation_test(differences) == pytest.approx(exact, abs=0.01)
    assert permutation_test([0.0, 0.0]) == 1.0


def test_players_that_are_alike_are_seldom_called_different() -> None:
    rng = np.random.default_rng(0)
    ps = [permutation_test((rng.integers(-1, 2, 30) - rng.integers(-1, 2, 30)).tolist(), 400) for _ in range(400)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.08
