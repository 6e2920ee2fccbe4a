"""Episodes of runs as data for the page's browser: chosen over the steps, cut where too long, every string once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from algos.report.games import COLOURS, GAME_LIMIT, TEXT_LIMIT, UNSEEN_RANGES, WORDS
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
            "strings": strings.entries,
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


class Strings:
    """Each string once. One that is too long is an entry ``[its beginning, how many characters are left out]``."""

    def __init__(self) -> None:
        self.entries: list[str | list[Any]] = []
        self._places: dict[tuple[str, int], int] = {}

    def place(self, value: object, limit: int = TEXT_LIMIT) -> int:
        whole = value if isinstance(value, str) else str(value)
        key = whole[:limit], max(len(whole) - limit, 0)
        found = self._places.setdefault(key, len(self.entries))
        if found == len(self.entries):
            self.entries.append(list(key) if key[1] else key[0])
        return found


def _episode(run: int, game: Game, strings: Strings) -> list[Any]:
    episode, turns, size = game.episode, [], 0
    played = [turn for turn in episode.get("turns") or [] if isinstance(turn, dict)]
    for turn in played:
        if size > GAME_LIMIT:
            break
        turns.append(_turn(turn, strings))
        size += min(len(str(turn.get("observation"))), TEXT_LIMIT) + min(len(str(turn.get("reply"))), TEXT_LIMIT)
    terms, info = (_pairs(episode.get(name), strings) for name in ("reward_terms", "info"))
    names = [strings.place(episode.get(name), 100) for name in ("env", "seed", "player", "outcome")]
    figures = [_figure(episode.get(name)) for name in ("return", "advantage")]
    texts = [strings.place(episode.get(name) or "") for name in ("rules", "last_observation")]
    told = [*names, *figures, terms, info, texts[0], turns, texts[1]]
    return [run, game.step, game.line, *told, len(played) - len(turns)]


def _turn(turn: Json, strings: Strings) -> list[Any]:
    reply, tokens, logprobs = (turn.get(name) for name in ("reply", "tokens", "logprobs"))
    reply, tokens = str(reply or ""), list(map(str, tokens)) if isinstance(tokens, list) else []
    # A reply that its tokens spell, but for the token that ended it, needs no second copy.
    spelt = bool(tokens) and reply in ("".join(tokens), "".join(tokens[:-1]))
    shown = tokens if sum(map(len, tokens)) <= TEXT_LIMIT else list(_fitting(tokens))
    return [
        strings.place(turn.get("observation") or ""),
        None if spelt else strings.place(reply),
        strings.place(turn.get("parse"), 100),
        _figure(turn.get("reward")),
        _figure(turn.get("advantage")),
        int(turn.get("stop_reason") == "length"),
        [strings.place(token) for token in shown],
        _thousandths(logprobs, len(shown)),
        len(tokens) or len(turn.get("action_ids") or []),
        max(len(reply) - sum(map(len, shown)), 0) if spelt else 0,
    ]


def _fitting(tokens: Sequence[str]) -> Iterator[str]:
    """The tokens up to :data:`TEXT_LIMIT` characters."""
    size = 0
    for token in tokens:
        size += len(token)
        if size > TEXT_LIMIT:
            return
        yield token


def _thousandths(logprobs: Any, count: int) -> list[int]:
    """The first ``count`` as probabilities in thousandths; none where one of them is no number."""
    try:
        return [round(1000 * math.exp(logprob)) for logprob in logprobs[:count]]
    except (TypeError, ValueError, OverflowError):
        return []


def _figure(value: object) -> float | None:
    return round(value, 4) if is_number(value) else None


def _pairs(values: object, strings: Strings) -> list[list[Any]]:
    """Names and values, a number as it is and anything else as text."""
    items = list(values.items())[:20] if isinstance(values, dict) else []
    return [[strings.place(k, 40), v if is_number(v) else [strings.place(v, 200)]] for k, v in items]
