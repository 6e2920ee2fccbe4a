"""Every metric of a run over its steps: what matters first, the others folded away."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from algos.report.charts import Line, line_chart, line_of, window
from algos.report.templates import COLOURS
from algos.run_folder.read import Run

FIRST = (
    ("Mean reward", r"reward/mean", False),
    ("How games ended", r"outcome/.+", True),
    ("Replies", r"parse/.+", True),
    ("Evaluation", r".+/(win|draw|loss|invalid)_rate", True),
    ("Evaluation", r".+/(pass_rate|pass_at_\d+)", True),
    ("Evaluation", r".+/(nash_conv|rules_satisfied)", False),
    ("Baseline", r"baseline/.+", True),
    ("Tokens in a reply", r"reply/tokens", False),
    ("Entropy", r"policy/entropy", False),
    ("Divergence", r"(policy|losses)/(\w+_)?kl(_\w+)?", False),
    ("Loss", r"losses/(policy|value|sft|entropy)", False),
    ("Update", r"losses/.+", False),
    ("Groups with equal rewards", r"groups/zero_std", False),
    ("Seconds of a step", r"time/.+_s", True),
    ("Tokens per second", r"time/tokens_per_second", False),
)
"""Charts that are not folded away: a title, a pattern of metric names, and whether those of one family share a chart.

A metric is shown under the first pattern that its name matches. Metrics are named ``family/name``; a metric that no
pattern matches is among the others.
"""
PERCENT = re.compile(r"(outcome|parse|groups)/.+|.*(_rate|_share|/cut|pass_at_\d+)")
PALETTE = ("good", "bad", "cut", "broken", "even")
"""Classes of the page's stylesheet, for lines whose name says no colour."""
SOLO = {"win": "solved", "loss": "failed", "draw": "", "solved": "solved", "failed": "failed"}
"""What outcomes are called where a game is solved or failed; one without a name cannot happen."""


@dataclass
class Chart:
    """A chart of the page, of one metric or of several of a family; folded away where it has no title."""

    title: str
    keys: list[str]
    lines: list[Line]

    @property
    def metric(self) -> str:
        return self.keys[0] if len(self.keys) == 1 else f"{_family(self.keys[0])}/"

    @property
    def percent(self) -> bool:
        return all(PERCENT.fullmatch(key) for key in self.keys)

    @property
    def svg(self) -> Markup:
        return line_chart(f"{self.title or self.keys[0]} over steps", self.lines, self.percent)


def charts(runs: Sequence[Run]) -> list[Chart]:
    """All metrics of ``runs``: of several runs their mean and its interval."""
    keys = list(dict.fromkeys(key for run in runs for row in run.metrics for key in row if key != "step"))
    keys = [key for key in keys if not key.endswith(("_low", "_high"))]
    if any(run.alone for run in runs):
        keys = [key for key in keys if key not in ("outcome/win", "outcome/loss") and not key.endswith("/draw_rate")]
    families: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for place, (title, pattern, together) in enumerate(FIRST):
        for key in [key for key in keys if re.fullmatch(pattern, key)]:
            families[title, f"{place} {_family(key)}" if together else key].append(key)
            keys.remove(key)
    made = [_chart(runs, title, part) for (title, _), family in families.items() for part in _parts(family)]
    return [chart for chart in [*made, *(_chart(runs, "", [key]) for key in sorted(keys))] if chart.lines]


def note(runs: Sequence[Run]) -> str:
    """What the curves are."""
    span = window(max(len(run.metrics) for run in runs))
    faint = f"the centred mean over {span} steps" if span > 1 else "every step"
    if len(runs) > 1:
        return f"Bold: the mean over {len(runs)} runs; band: Student's 95 % interval of it; faint: each run ({faint})."
    return f"Bold: {faint}; faint: each step." if span > 1 else "Every step is shown."


def _family(key: str) -> str:
    return key.rpartition("/")[0]


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix("_rate")


def _parts(family: list[str]) -> list[list[str]]:
    """At most as many lines in a chart as there are colours, in the order of :data:`COLOURS`."""
    order = list(COLOURS)
    family = sorted(family, key=lambda key: order.index(_name(key)) if _name(key) in COLOURS else len(order))
    return [family[i : i + len(PALETTE)] for i in range(0, len(family), len(PALETTE))]


def _chart(runs: Sequence[Run], title: str, keys: list[str]) -> Chart:
    alone, lines = any(run.alone for run in runs), []
    taken = {COLOURS[_name(key)] for key in keys if _name(key) in COLOURS}
    free = [colour for colour in PALETTE if colour not in taken] + list(PALETTE)
    for key in keys:
        colour = COLOURS.get(_name(key)) or free.pop(0)
        name = SOLO.get(_name(key), _name(key)) if alone else _name(key)
        line = line_of(name, colour, [run.curve(key) for run in runs])
        if len(runs) == 1:
            low, high = (runs[0].curve(f"{key}_{end}") for end in ("low", "high"))
            line.band = [(step, low[step], high[step]) for step in sorted(low) if step in high]
        lines.append(line)
    return Chart(title, keys, [line for line in lines if line.points])
