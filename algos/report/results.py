"""Before and after of some runs as the page's tables and charts show them, and the hardest rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from algos.report.templates import is_rate
from algos.run_folder.read import Json, Run, is_number, rates_of_rules
from llm_gym.games.password.rules import RULES

Pair = tuple[Json, Json]
MAIN = {"win_rate": "won", "draw_rate": "drawn", "loss_rate": "lost"}
ALONE = {"win_rate": "solved", "loss_rate": "failed"}
BOTH = {"invalid_rate": "invalid reply", "mean_return": "mean return"}
HIDDEN = (*MAIN, *BOTH, "episodes", "success_rate")
"""Values that get no further row: the number of episodes is in the heading, and success is the rate won or solved."""


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """What the main values of an evaluation are called."""
    return (ALONE if any(run.alone for run in runs) else MAIN) | BOTH


@dataclass
class Group:
    """One evaluation before and after training, over all games, of one seat, or a further one.

    Attributes:
        names: The values of its table and what they are called.
    """

    name: str
    pair: Pair
    names: dict[str, str]

    @property
    def drawn(self) -> dict[str, str]:
        """The rates of its chart."""
        drawn = [key for key in self.names if is_rate(key) and (key in HIDDEN or key.startswith("pass_at_"))]
        return {key: self.names[key] for key in drawn}

    @property
    def episodes(self) -> str:
        return " and ".join(dict.fromkeys(f"{result.get('episodes', 0):,}" for result in self.pair if result))


def groups(runs: Sequence[Run], before: Json, after: Json) -> Iterator[Group]:
    """All games, then each seat, then each further evaluation."""
    main = labels(runs)
    yield Group("All games", (before, after), main | _further((before, after)))
    for kind in ("seats", "extra"):
        parts: list[Json] = [result.get(kind) or {} for result in (before, after)]
        for name in sorted({*parts[0], *parts[1]}):
            pair = parts[0].get(name, {}), parts[1].get(name, {})
            yield Group(f"Seat {name}", pair, main) if kind == "seats" else Group(name, pair, main | _further(pair))


def _further(pair: Pair) -> dict[str, str]:
    """Values of an evaluation beyond the main ones, such as ``pass_at_1`` or ``rules_satisfied``."""
    every = dict.fromkeys(key for key in chain(*pair) if any(is_number(result.get(key)) for result in pair))
    keys = [key for key in every if key not in HIDDEN and not key.endswith(("_low", "_high"))]
    return {key: re.sub(r"^pass_at_", "pass@", key).removesuffix("_rate").replace("_", " ") for key in keys}


@dataclass
class Rules:
    """A list of rates at two times, such as one for each rule of the Password Game: the hardest first."""

    what: str
    columns: tuple[str, str]
    rates: tuple[dict[int, float], dict[int, float]]

    @property
    def rows(self) -> Iterator[tuple[int, str, list[float | None]]]:
        """Number, text, and the rate at both times, None where it is not known."""
        first, last = self.rates
        for rule in sorted({*first, *last}, key=lambda rule: (last.get(rule, first.get(rule, 0.0)), rule)):
            name = re.sub(r"\{(\w+)\}", r"(\1)", RULES[rule].text) if rule < len(RULES) else ""
            yield rule, name, [first.get(rule), last.get(rule)]


def rules(runs: Sequence[Run], before: Json, after: Json) -> list[Rules]:
    """Each list of rates of the evaluations; without one, how often each rule was kept in training."""
    found = []
    for key in dict.fromkeys(key for result in (after, before) for key in result if key.endswith("_rates")):
        lists = (result[key] if isinstance(result.get(key), list) else [] for result in (before, after))
        old, new = (dict(enumerate(rate for rate in rates if is_number(rate))) for rates in lists)
        found.append(Rules(key.removesuffix("_rates").replace("_", " "), ("Before", "After"), (old, new)))
    first, last = rates_of_rules(runs, 0), rates_of_rules(runs, -1)
    training = Rules("kept when shown, in training", ("First step", "Last step"), (first, last))
    return found or ([training] if last else [])
