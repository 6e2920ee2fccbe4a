"""Playing a fixed set of games and saying how sure the result is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from algos.rollout.play import Rollout
from algos.rollout.records import Episode


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927), 95 % by default; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


RATES = {
    "win": ("win", "solved"),
    "draw": ("draw",),
    "loss": ("loss", "failed"),
    "invalid": ("invalid",),
}
"""By outcome, so the four rates add up to 1 but for truncated episodes: an invalid end is not counted as a loss."""


def score(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Rates with their intervals, the mean return with its own (normal, 95 %), and the mean number of replies."""
    n = len(episodes)
    result: dict[str, Any] = {"episodes": n}
    for rate, outcomes in RATES.items():
        count = sum(episode.outcome in outcomes for episode in episodes)
        result[f"{rate}_rate"] = count / n if n else 0.0
        result[f"{rate}_rate_low"], result[f"{rate}_rate_high"] = wilson(count, n)
    returns = [episode.total_reward for episode in episodes]
    mean = sum(returns) / n if n else 0.0
    variance = sum((r - mean) ** 2 for r in returns) / (n - 1) if n > 1 else 0.0
    half = 1.959964 * math.sqrt(variance / n) if n else 0.0
    result |= {"mean_return": mean, "mean_return_low": mean - half, "mean_return_high": mean + half}
    result["mean_turns"] = sum(len(episode.turns) for episode in episodes) / n if n else 0.0
    return result


def score_by_seat(episodes: Sequence[Episode]) -> dict[str, Any]:
    """:func:`score` over all episodes, and under ``seats`` for each seat apart where several were played."""
    result = score(episodes)
    seats = sorted({episode.player for episode in episodes})
    if len(seats) > 1:
        result["seats"] = {str(seat): score([e for e in episodes if e.player == seat]) for seat in seats}
    return result


def evaluate(rollout: Rollout, episodes: int, temperature: float, accelerator: Accelerator) -> dict[str, Any]:
    """Plays ``episodes`` games on seeds 0, 1, 2, ... and scores them; training never uses these seeds.

    Every process plays its share. The generator is this function's own: evaluating never changes a run.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    generator = torch.Generator(accelerator.device).manual_seed(rank)
    with accelerator.autocast():
        played = rollout.play(range(episodes)[rank::world], temperature, generator)
    return score_by_seat(gather_object(played))
