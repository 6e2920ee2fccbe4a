"""Episodes of runs as data for the page's browser: chosen over the steps, cut where too long, every string once."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

from algos.report.templates import COLOURS, TEXT_LIMIT, UNSEEN_RANGES, WORDS, first_turns
from algos.run_folder.read import Game, Json, Run, count_episodes, episode_files, games_of, is_number

SIZE_LIMIT = 7_000_000
"""Characters of data in a page; where the episodes asked for do not fit, fewer are taken."""

EPISODE = (
    *("run", "step", "line", "env", "seed", "seat", "outcome", "return", "advantage", "terms", "info"),
    *("rules", "turns", "end", "more_turns"),
)
TURN = ("observation", "reply", "parse", "reward", "advantage", "cut", "tokens", "p", "count", "left")
"""What the arrays of an episode and of a turn hold, in this order; texts and names by their place in ``strings``."""


def episodes_as_json(runs: Sequence[Run], most: int) -> str:
    """At most ``most`` episodes of ``runs`` as JSON that may stand inside a ``<script>`` element; pure ASCII."""
    total = sum(count for run in runs for count in map(count_episodes, episode_files(run.folder)))
    while True:
        strings = Strings()
        shown = [_episode(number, game, strings) for number, game in _chosen(runs, most)]
        data = {
            "runs": [{"name": str(run.folder), "context": run.settings.get("rollout.context")} for run in runs],
            "total": total,
            "fields": {"episode": EPISODE, "turn": TURN},
            "unseen": UNSEEN_RANGES,
            "colours": COLOURS,
            "words": WORDS,
            "strings": [list(key) if key[1] else key[0] for key in strings],
            "episodes": shown,
        }
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        if len(text) <= SIZE_LIMIT or most <= 1:
            return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        most = int(min(most, len(shown)) * 0.9 * SIZE_LIMIT / len(text))


def quotas(counts: Sequence[int], most: int) -> list[int]:
    """How many of each step's episodes are taken: the newest steps whole, up to half of ``most``; the rest evenly."""
    if sum(counts) <= most:
        return list(counts)
    taken, left, first = [0] * len(counts), most, len(counts)
    while first and counts[first - 1] <= left - most // 2:
        first -= 1
        taken[first] = counts[first]
        left -= counts[first]
    steps = min(first, left)
    for i in range(steps):
        place = (i + 1) * first // steps - 1
        taken[place] = min(counts[place], left // steps)
    return taken


def _chosen(runs: Sequence[Run], most: int) -> Iterator[tuple[int, Game]]:
    for number, run in enumerate(runs):
        files = episode_files(run.folder)
        for file, count in zip(files, quotas([count_episodes(file) for file in files], max(most // len(runs), 1))):
            yield from ((number, game) for game in islice(games_of(file), count))


class Strings(dict[tuple[str, int], int]):
    """Each string once: its first characters and how many more it has -> its place in the table."""

    def place(self, value: object, limit: int = TEXT_LIMIT) -> int:
        whole = str(value)
        return self.setdefault((whole[:limit], max(len(whole) - limit, 0)), len(self))


def _episode(run: int, game: Game, strings: Strings) -> list[Any]:
    episode = game.episode
    turns, left_out = first_turns(episode)
    names = [strings.place(episode.get(name), 100) for name in ("env", "seed", "player", "outcome")]
    numbers = [_rounded(episode.get(name)) for name in ("return", "advantage")]
    terms, info = (_pairs(episode.get(name), strings) for name in ("reward_terms", "info"))
    rules, end = (strings.place(episode.get(name) or "") for name in ("rules", "last_observation"))
    played = [_turn(turn, strings) for turn in turns]
    return [run, game.step, game.line, *names, *numbers, terms, info, rules, played, end, left_out]


def _turn(turn: Json, strings: Strings) -> list[Any]:
    reply, tokens, logprobs = (turn.get(name) for name in ("reply", "tokens", "logprobs"))
    reply, tokens = str(reply or ""), list(map(str, tokens)) if isinstance(tokens, list) else []
    # A reply that its tokens spell, but for the token that ended it, needs no second copy.
    spelt = bool(tokens) and reply in ("".join(tokens), "".join(tokens[:-1]))
    shown = tokens[: bisect_right(list(accumulate(map(len, tokens))), TEXT_LIMIT)]
    return [
        strings.place(turn.get("observation") or ""),
        None if spelt else strings.place(reply),
        strings.place(turn.get("parse"), 100),
        _rounded(turn.get("reward")),
        _rounded(turn.get("advantage")),
        int(turn.get("stop_reason") == "length"),
        [strings.place(token) for token in shown],
        _thousandths(logprobs, len(shown)),
        len(tokens) or len(turn.get("action_ids") or []),
        max(len(reply) - sum(map(len, shown)), 0) if spelt else 0,
    ]


def _thousandths(logprobs: Any, count: int) -> list[int]:
    """The first ``count`` as probabilities in thousandths; empty where one of them is not a number."""
    try:
        return [round(1000 * math.exp(logprob)) for logprob in logprobs[:count]]
    except (TypeError, ValueError, OverflowError):
        return []


def _rounded(value: object) -> float | None:
    return round(value, 4) if is_number(value) else None


def _pairs(values: object, strings: Strings) -> list[list[Any]]:
    """Names and values, a number as it is and anything else as text."""
    items = list(values.items())[:20] if isinstance(values, dict) else []
    return [[strings.place(k, 40), v if is_number(v) else [strings.place(v, 200)]] for k, v in items]
