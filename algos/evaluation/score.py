"""The metrics of a set of episodes, with 95 % intervals, and a comparison of two sets."""

from __future__ import annotations

import math
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
    """Metrics of a set of episodes; ``x_low`` and ``x_high`` are the ends of the interval of ``x``.

    Rates have Wilson's interval, means the normal one. Only starts are independent: the ``samples`` episodes from one
    start count as one trial, so the interval of a rate is never too narrow.

    Args:
        samples: Episodes from each start, in consecutive order.
        reward_range: The smallest and the largest return that the rules allow, for ``normalised_score``.
    """
    n = len(episodes)
    result: dict[str, Any] = {"episodes": n}
    for name, outcomes in RATES.items():
        result |= _rate(f"{name}_rate", [episode.outcome in outcomes for episode in episodes], samples)
    result |= {f"success_rate{end}": result[f"win_rate{end}"] for end in ("", "_low", "_high")}
    result |= _mean("mean_return", [episode.total_reward for episode in episodes], samples)
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
    """:func:`score` over all episodes, and under ``seats`` for each seat where several were played."""
    result = score(episodes, samples, reward_range)
    seats = sorted({episode.player for episode in episodes})
    if len(seats) > 1:
        result["seats"] = {
            str(seat): score([e for e in episodes if e.player == seat], samples, reward_range) for seat in seats
        }
    return result


def _by_start(values: Sequence[T], samples: int) -> list[Sequence[T]]:
    """The values of each start: ``samples`` consecutive ones."""
    return [values[first : first + samples] for first in range(0, len(values), samples)]


def _passed(episodes: Sequence[Episode], samples: int) -> list[int]:
    """How many of the episodes of each start succeeded."""
    return [sum(group) for group in _by_start([episode.success for episode in episodes], samples)]


def _means(values: Sequence[float], samples: int) -> list[float]:
    """The mean of each start."""
    return [sum(group) / len(group) for group in _by_start(values, samples)]


def _with_ends(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _rate(name: str, hits: Sequence[bool], samples: int) -> dict[str, float]:
    rate, trials = sum(hits) / max(len(hits), 1), len(hits) / samples
    return _with_ends(name, rate, *wilson(rate * trials, trials))


def _mean(name: str, values: Sequence[float], samples: int) -> dict[str, float]:
    return _with_ends(name, *normal_interval(_means(values, samples)))


def _pass_at(episodes: Sequence[Episode], samples: int) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... and ``samples``, over starts, with Wilson's interval over starts."""
    passed, result = _passed(episodes, samples), dict[str, float]()
    for k in sorted({*(2**i for i in range(samples.bit_length())), samples}):
        total = sum(pass_at_k(samples, count, k) for count in passed)
        result |= _with_ends(f"pass_at_{k}", total / max(len(passed), 1), *wilson(total, len(passed)))
    return result


def task_metrics(episodes: Sequence[Episode], samples: int) -> dict[str, Any]:
    """Which tasks of a data set were played, which were solved at least once, and the share of replies that did."""
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
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for episode in episodes for name in episode.info if name not in LABELS):
        values = [episode.info[name] for episode in episodes if name in episode.info]
        trials = samples if len(values) == len(episodes) else 1
        if all(isinstance(value, bool) for value in values):
            result |= _rate(f"{name}_rate", values, trials)
        elif all(isinstance(value, Real) and math.isfinite(value) for value in values):
            result |= _mean(name, [float(value) for value in values], trials)
        elif all(map(_is_truths, values)) and len(set(map(len, values))) == 1:
            result[f"{name}_rates"] = [sum(column) / len(values) for column in zip(*values, strict=True)]
    return result


def _is_truths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, bool) for part in value)


def compare(first: Sequence[Episode], second: Sequence[Episode], samples: int = 1) -> dict[str, Any]:
    """Two players on the same starts: the first minus the second, and p-values under the hypothesis of no difference.

    ``success_p`` is McNemar's exact test (with several samples a start, the sign test over starts), ``return_p`` a
    permutation test of the paired returns.

    Raises:
        ValueError: They did not play the same starts.
    """
    if [(e.env_id, e.seed, e.start) for e in first] != [(e.env_id, e.seed, e.start) for e in second]:
        raise ValueError("only evaluations on the same starts can be compared")
    pairs = list(zip(_passed(first, samples), _passed(second, samples), strict=True))
    better, worse = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
    gains = _means([one.total_reward - other.total_reward for one, other in zip(first, second, strict=True)], samples)
    return {
        "success_difference": sum(ours - theirs for ours, theirs in pairs) / max(len(first), 1),
        "better": better,
        "worse": worse,
        "success_p": sign_test(better, worse),
        **_with_ends("return_difference", *normal_interval(gains)),
        "return_p": permutation_test(gains),
    }
