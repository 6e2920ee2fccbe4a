"""What a set of episodes says of who played them, every figure with its 95 % interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeVar

from algos.data.episodes import Episode
from algos.maths.statistics import normal_interval, pass_at_k, permutation_test, sign_test, wilson

RATES = {
    "win": ("win", "solved"),
    "draw": ("draw",),
    "loss": ("loss", "failed"),
    "invalid": ("invalid",),
}
"""By outcome, so the four rates add up to 1 but for truncated episodes: an invalid end is not counted as a loss."""
T = TypeVar("T")
LABELS = ("player", "task_id")
"""Numbers in ``info`` that name something rather than measure it."""


def score(
    episodes: Sequence[Episode], samples: int = 1, reward_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Figures of a set of episodes; ``x_low`` and ``x_high`` are the ends of the interval of ``x``.

    Rates have Wilson's interval, means the normal one. Only starts count as independent: ``samples`` episodes from one
    start count as one trial, which makes the interval of a rate at least as wide as it must be.

    Args:
        samples: Episodes from each start, one after the other.
        reward_range: The least and the most that the rules pay, for ``normalised_score``.
    """
    n = len(episodes)
    result: dict[str, Any] = {"episodes": n}
    for name, outcomes in RATES.items():
        _put_rate(result, f"{name}_rate", [episode.outcome in outcomes for episode in episodes], samples)
    for end in ("", "_low", "_high"):
        result[f"success_rate{end}"] = result[f"win_rate{end}"]
    _put_mean(result, "mean_return", [episode.total_reward for episode in episodes], samples)
    low, high = reward_range or (0.0, math.inf)
    if math.isfinite(high - low) and high > low:
        result["normalised_score"] = min(max((result["mean_return"] - low) / (high - low), 0.0), 1.0)
    turns = [turn for episode in episodes for turn in episode.turns]
    result["mean_turns"] = len(turns) / n if n else 0.0
    for parse in ("ok", "malformed", "illegal"):
        result[f"parse_{parse}_rate"] = sum(turn.parse == parse for turn in turns) / max(len(turns), 1)
    result["mean_reply_tokens"] = sum(len(turn.action_ids) for turn in turns) / max(len(turns), 1)
    result["cut_reply_rate"] = sum(turn.stop_reason == "length" for turn in turns) / max(len(turns), 1)
    result["distinct_replies"] = len({turn.reply for turn in turns})
    if samples > 1:
        result |= _pass_at(episodes, samples)
    return {**_env_metrics(episodes, samples), **result}


def score_by_seat(
    episodes: Sequence[Episode], samples: int = 1, reward_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """:func:`score` over all episodes, and under ``seats`` for each seat apart where several were played."""
    result = score(episodes, samples, reward_range)
    seats = sorted({episode.player for episode in episodes})
    if len(seats) > 1:
        result["seats"] = {
            str(seat): score([e for e in episodes if e.player == seat], samples, reward_range) for seat in seats
        }
    return result


def by_start(values: Sequence[T], samples: int) -> list[list[T]]:
    """Values of episodes, those of each start together: ``samples`` running ones."""
    return [list(values[first : first + samples]) for first in range(0, len(values), samples)]


def _passed(episodes: Sequence[Episode], samples: int) -> list[int]:
    """How many of the episodes of each start succeeded."""
    return [sum(group) for group in by_start([episode.success for episode in episodes], samples)]


def _pass_at(episodes: Sequence[Episode], samples: int) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... and ``samples``, over starts, with Wilson's interval over starts."""
    passed, result = _passed(episodes, samples), {}
    for k in sorted({*(2**i for i in range(samples.bit_length())), samples}):
        total = sum(pass_at_k(samples, count, k) for count in passed)
        result[f"pass_at_{k}"] = total / max(len(passed), 1)
        result[f"pass_at_{k}_low"], result[f"pass_at_{k}_high"] = wilson(total, len(passed))
    return result


def task_metrics(episodes: Sequence[Episode], samples: int) -> dict[str, Any]:
    """Of tasks of a data set: which there were, which were solved at least once, and the share of replies that did."""
    passed = _passed(episodes, samples)
    ids = [episode.start.env.kwargs["task_id"] for episode in episodes[::samples] if episode.start]
    return {
        "pass_rate": sum(passed) / max(len(episodes), 1),
        "problems": len(passed),
        "problems_passed": sum(count > 0 for count in passed),
        "task_ids": ids,
        "task_ids_passed": [number for number, count in zip(ids, passed, strict=True) if count],
    }


def _env_metrics(episodes: Sequence[Episode], samples: int) -> dict[str, Any]:
    """Whatever the last ``info`` of an environment counts, over the episodes that have it.

    A number gives its mean, under its own name; true or false gives ``<name>_rate``; a list of these, such as one for
    each rule, gives the list ``<name>_rates``.
    """
    told: defaultdict[str, list[Any]] = defaultdict(list)
    for episode in episodes:
        for name, value in episode.info.items():
            if name not in LABELS:
                told[name].append(value)
    result: dict[str, Any] = {}
    for name, values in told.items():
        samples = samples if len(values) == len(episodes) else 1
        if all(isinstance(value, bool) for value in values):
            _put_rate(result, f"{name}_rate", values, samples)
        elif all(isinstance(value, Real) and math.isfinite(value) for value in values):
            _put_mean(result, name, [float(value) for value in values], samples)
        elif all(_is_truths(value) for value in values) and len({len(value) for value in values}) == 1:
            result[f"{name}_rates"] = [sum(column) / len(values) for column in zip(*values, strict=True)]
    return result


def _is_truths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, bool) for part in value)


def _put_rate(result: dict[str, Any], name: str, hits: Sequence[bool], samples: int) -> None:
    rate = sum(hits) / len(hits) if hits else 0.0
    trials = len(hits) / samples
    result[name] = rate
    result[f"{name}_low"], result[f"{name}_high"] = wilson(rate * trials, trials)


def _put_mean(result: dict[str, Any], name: str, values: Sequence[float], samples: int) -> None:
    means = [sum(group) / len(group) for group in by_start(values, samples)]
    result[name], result[f"{name}_low"], result[f"{name}_high"] = normal_interval(means)


def compare(first: Sequence[Episode], second: Sequence[Episode], samples: int = 1) -> dict[str, Any]:
    """Two players on the same starts: the first less the second, and how likely that is if they were alike.

    ``success_p`` is McNemar's exact test (with several samples a start, the sign test over starts), ``return_p`` a
    permutation test of the paired returns.

    Raises:
        ValueError: They did not play the same starts.
    """
    if [(e.env_id, e.seed, e.start) for e in first] != [(e.env_id, e.seed, e.start) for e in second]:
        raise ValueError("only evaluations on the same starts can be compared")
    pairs = list(zip(_passed(first, samples), _passed(second, samples), strict=True))
    better, worse = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
    gains = [one.total_reward - other.total_reward for one, other in zip(first, second, strict=True)]
    by_starts = [sum(group) / len(group) for group in by_start(gains, samples)]
    gain, low, high = normal_interval(by_starts)
    return {
        "success_difference": sum(ours - theirs for ours, theirs in pairs) / max(len(first), 1),
        "better": better,
        "worse": worse,
        "success_p": sign_test(better, worse),
        "return_difference": gain,
        "return_difference_low": low,
        "return_difference_high": high,
        "return_p": permutation_test(by_starts),
    }
