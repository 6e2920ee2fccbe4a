"""Confidence intervals, pass@k, and tests of whether two players differ: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959964
"""The normal distribution's 97.5 % point: intervals are of 95 %."""
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, two-sided 95 %, for 1 to 10 degrees of freedom."""


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and Student's 95 % interval of it; a single value has no width."""
    freedom = len(values) - 1
    # Beyond the table, Fisher's expansion of t in 1 / freedom: right to 0.003.
    t = T95[freedom - 1] if freedom <= len(T95) else 1.960 + 2.372 / freedom + 2.823 / freedom**2
    return normal_interval(values, t)


def normal_interval(values: Sequence[float], z: float = Z) -> tuple[float, float, float]:
    """The mean of ``values`` and its interval by the normal distribution; a single value has no width."""
    n = len(values)
    if n == 0:
        return 0.0, 0.0, 0.0
    mean = sum(values) / n
    half = z * math.sqrt(sum((value - mean) ** 2 for value in values) / max(n - 1, 1) / n)
    return mean, mean - half, mean + half


def wilson(successes: float, trials: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927), 95 % by default; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that at least one of ``k`` samples passes, given that ``passed`` of ``samples`` did.

    Unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Raises:
        ValueError: ``k`` is not within 1 to ``samples``.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples a task, not {samples}")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def sign_test(better: int, worse: int) -> float:
    """The two-sided p-value of ``better`` against ``worse`` if both were equally likely.

    On pairs of successes and failures it is McNemar's exact test: pairs that agree do not count (McNemar 1947).
    """
    n, least = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(least + 1)) / 2**n)


def permutation_test(differences: Sequence[float], draws: int = 10_000) -> float:
    """The two-sided p-value of a mean difference over pairs, if the sign of each difference were random.

    A Monte-Carlo test: (1 + draws of signs as extreme) / (1 + draws), its generator fixed (Fisher 1935). Counting the
    observed signs among the draws keeps the p-value from being too small (Phipson and Smyth 2010).
    """
    values = np.array([value for value in differences if value], dtype=np.float64)
    if not len(values):
        return 1.0
    rng, extreme, seen = np.random.default_rng(0), 0, abs(values.sum()) * (1 - 1e-12)
    for _ in range(draws // 100):
        signs = rng.integers(0, 2, (100, len(values))) * 2 - 1
        extreme += int((np.abs(signs @ values) >= seen).sum())
    return (1 + extreme) / (1 + draws)
