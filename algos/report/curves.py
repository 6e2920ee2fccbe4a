"""Every metric of a run over its steps: what matters first, the others folded away."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from algos.report.charts import line_chart, line_of, number, window
from algos.report.games import COLOURS, text
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
    ("Groups without signal", r"groups/zero_std", False),
    ("Seconds of a step", r"time/.+_s", True),
    ("Tokens per second", r"time/tokens_per_second", False),
)
"""Charts that are not folded away: a title, the metrics it is for, and whether those of one parent share a chart.

A metric is shown under the first that its name matches. Trainers name metrics ``family/name``; a family not listed here
is among the others.
"""
PERCENT = re.compile(r"(outcome|parse|groups)/.+|.*(_rate|_share|/cut|pass_at_\d+)")
PALETTE = ("good", "bad", "cut", "broken", "even")
"""Classes of the page's stylesheet, for lines whose name says no colour."""
SOLO = {"win": "solved", "loss": "failed", "draw": "", "solved": "solved", "failed": "failed"}
"""What outcomes are called where a game is solved or failed; one without a name cannot happen."""


def curves(runs: Sequence[Run]) -> str:
    """The section of all curves: of several runs their mean and its interval."""
    keys = list(dict.fromkeys(key for run in runs for row in run.metrics for key in row if key != "step"))
    keys = [key for key in keys if not key.endswith(("_low", "_high"))]
    if not keys:
        return "<section><h2>Curves</h2><p>No step has been logged yet.</p></section>"
    if any(run.alone for run in runs):
        keys = [key for key in keys if key not in ("outcome/win", "outcome/loss") and not key.endswith("/draw_rate")]
    charts: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for place, (title, pattern, together) in enumerate(FIRST):
        for key in [key for key in keys if re.fullmatch(pattern, key)]:
            charts[title, f"{place} {_parent(key)}" if together else key].append(key)
            keys.remove(key)
    first = [_card(runs, title, part) for (title, _), family in charts.items() for part in _parts(family)]
    rest = "".join(_card(runs, "", [key]) for key in sorted(keys))
    folded = f'<details><summary>All other metrics</summary><div class="grid-of">{rest}</div></details>'
    return f"""<section><h2>Curves</h2><p class="note">{_note(runs)}</p>
<div class="grid-of">{"".join(first)}</div>
{folded if rest else ""}</section>"""


def _note(runs: Sequence[Run]) -> str:
    span = window(max(len(run.metrics) for run in runs))
    faint = f"the centred mean over {span} steps" if span > 1 else "every step"
    if len(runs) > 1:
        return f"Bold: the mean over {len(runs)} runs; band: Student's 95 % interval of it; faint: each run ({faint})."
    return f"Bold: {faint}; faint: each step." if span > 1 else "Every step is shown."


def _parent(key: str) -> str:
    return key.rpartition("/")[0]


def _parts(family: list[str]) -> list[list[str]]:
    """At most as many lines in a chart as there are colours, in the order of :data:`COLOURS`."""
    order = {name: place for place, name in enumerate(COLOURS)}
    family = sorted(family, key=lambda key: order.get(_name(key), len(order)))
    return [family[i : i + len(PALETTE)] for i in range(0, len(family), len(PALETTE))]


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix("_rate")


def _card(runs: Sequence[Run], title: str, keys: list[str]) -> str:
    """One chart with its legend: each line's first and last value."""
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
        if line.points:
            lines.append(line)
    if not lines:
        return ""
    percent = all(PERCENT.fullmatch(key) for key in keys)
    legend = []
    for line in lines:
        ends = dict.fromkeys(number(value, percent) for _, value in (line.points[0], line.points[-1]))
        name = f'<i class="{line.colour}"></i>{text(line.name)} ' if len(lines) > 1 else ""
        legend.append(f"<li>{name}<b>{' &rarr; '.join(ends)}</b></li>")
    which = text(keys[0] if len(keys) == 1 else f"{_parent(keys[0])}/")
    heading = f"{title} <code>{which}</code>" if title else f"<code>{which}</code>"
    return f"""<div class="card"><h3>{heading}</h3><ul class="legend">{"".join(legend)}</ul>
{line_chart(f"{title or keys[0]} over steps", lines, percent)}</div>"""
