"""Before and after of some runs: pictures, tables, and the hardest rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from algos.report.charts import Interval, interval_chart
from algos.report.games import text
from algos.run_folder.read import Json, Run, evaluation, is_number, rates_of_rules, triple
from llm_gym.games.password.rules import RULES

Pair = tuple[Json, Json]
UNTOLD = ("episodes", "success_rate")
"""Numbers that have no row of their own: the first is in the heading, the second is the rate won or solved."""


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """What the main figures of an evaluation are called."""
    alone = any(run.alone for run in runs)
    named = {"win_rate": "solved", "loss_rate": "failed"} if alone else {}
    named = named or {"win_rate": "won", "draw_rate": "drawn", "loss_rate": "lost"}
    return named | {"invalid_rate": "invalid reply", "mean_return": "mean return"}


def results(runs: Sequence[Run], before: Json, after: Json) -> str:
    """Before and after as a picture and as a table: overall, by seat, and each further evaluation."""
    if not before and not after:
        return _rules_of_training(runs)
    main, cards, bodies = labels(runs), [], []
    for name, pair in _groups(before, after):
        named = main | {key: _worded(key) for key in _more_figures(pair)} if not name.startswith("Seat") else main
        shown = [key for key in named if key in main or key.startswith("pass_at_")]
        rates = [Interval(named[key], *(triple(r, key) for r in pair)) for key in shown if _is_rate(key)]
        picture = interval_chart(f"{name}: before and after", rates)
        cards.append(f'<div class="card"><h3>{text(name)}</h3>{picture}</div>')
        played = " and ".join(dict.fromkeys(f"{result.get('episodes', 0):,}" for result in pair if result))
        rows = [f'<th scope="rowgroup" colspan="3">{text(name)} <small>{played} games</small></th>']
        for key, label in named.items():
            rows.append(f'<th scope="row">{text(label)}</th>' + "".join(_cell(key, result) for result in pair))
        bodies.append(f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>")
    over = "95 % intervals" + (", Student's over the runs where they differ" if len(runs) > 1 else "")
    return f"""<section><h2>Before and after</h2>
<ul class="legend"><li><i class="ring"></i>before</li><li><i class="disc"></i>after</li><li>bars: {over}</li></ul>
<div class="grid-of">{"".join(cards)}</div>
<p class="note">What is missing to 100 % was cut short by a limit.</p>
{_table("Before and after", ("", "Before", "After"), "".join(bodies))}
{_each_run(runs, main["win_rate"]) if len(runs) > 1 else ""}</section>
{_rules_of_results(before, after) or _rules_of_training(runs)}"""


def _groups(before: Json, after: Json) -> Iterator[tuple[str, Pair]]:
    yield "All games", (before, after)
    for kind, title in (("seats", "Seat {}"), ("extra", "{}")):
        parts: list[Json] = [result.get(kind) or {} for result in (before, after)]
        for name in sorted({*parts[0], *parts[1]}):
            yield title.format(name), (parts[0].get(name, {}), parts[1].get(name, {}))


def _more_figures(pair: Pair) -> list[str]:
    """Numbers of an evaluation beyond the main ones, such as ``pass_at_1`` or ``rules_satisfied``."""
    keys = dict.fromkeys(key for key in chain(*pair) if any(is_number(result.get(key)) for result in pair))
    main = ("win_rate", "draw_rate", "loss_rate", "invalid_rate", "mean_return", *UNTOLD)
    return [key for key in keys if key not in main and not key.endswith(("_low", "_high"))]


def _worded(key: str) -> str:
    words = re.sub(r"^pass_at_", "pass@", key).removesuffix("_rate")
    return words.replace("_", " ")


def _is_rate(key: str) -> bool:
    return key.endswith("_rate") or key.startswith("pass_at_")


def _each_run(runs: Sequence[Run], label: str) -> str:
    rows = []
    for run in runs:
        cells = [f"<td>{text(cell)}</td>" for cell in (run.settings.get("run.seed", ""), f"{run.steps:,}")]
        cells += [_cell("win_rate", evaluation([run], when)) for when in ("before", "after")]
        rows.append(f'<tr><th scope="row">{text(run.folder)}</th>{"".join(cells)}</tr>')
    columns = ("Run", "Seed", "Steps", f"Before, {label}", f"After, {label}")
    return "<h2>Each run</h2>" + _table("Each run", columns, f"<tbody>{''.join(rows)}</tbody>")


def _table(label: str, columns: Sequence[str], bodies: str) -> str:
    head = "".join(f'<th scope="col">{column}</th>' if column else "<td></td>" for column in columns)
    table = f"<table><thead><tr>{head}</tr></thead>{bodies}</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _cell(key: str, result: Json) -> str:
    """A figure, with its interval where it has one."""
    value, found = result.get(key), triple(result, key)
    if not is_number(value):
        return "<td>not known</td>"

    def written(figure: float) -> str:
        return f"{figure:.1%}" if _is_rate(key) else f"{figure:+.3f}" if key == "mean_return" else f"{figure:,.4g}"

    ends = f" <small>[{written(found[1])}, {written(found[2])}]</small>" if found else ""
    return f'<td><data value="{value!r}">{written(value)}</data>{ends}</td>'


def _rules_of_results(before: Json, after: Json) -> str:
    """The lists of rates of an evaluation, such as one for each rule of the Password Game: the hardest first."""
    parts = []
    for key in dict.fromkeys(key for result in (after, before) for key in result if key.endswith("_rates")):
        lists = [result[key] if isinstance(result.get(key), list) else [] for result in (before, after)]
        found = [dict(enumerate(rate for rate in rates if is_number(rate))) for rates in lists]
        parts.append(_rules(key.removesuffix("_rates").replace("_", " "), ("Before", "After"), found))
    return "".join(parts)


def _rules_of_training(runs: Sequence[Run]) -> str:
    """Where no evaluation says: how often each rule was kept in the first step's episodes and in the last one's."""
    first, last = rates_of_rules(runs, 0), rates_of_rules(runs, -1)
    return _rules("kept when shown, in training", ("First step", "Last step"), [first, last]) if last else ""


def _rules(what: str, columns: tuple[str, str], found: list[dict[int, float]]) -> str:
    every = sorted({*found[0], *found[1]}, key=lambda rule: (found[1].get(rule, found[0].get(rule, 0.0)), rule))
    rows = []
    for rule in every:
        told = re.sub(r"\{(\w+)\}", r"(\1)", RULES[rule].text) if rule < len(RULES) else ""
        cells = [f"<td>{_bar(rates[rule])}{rates[rule]:.1%}</td>" if rule in rates else "<td>-</td>" for rates in found]
        rows.append(f'<tr><th scope="row">{rule} <small>{text(told)}</small></th>{"".join(cells)}</tr>')
    table = _table("Hardest rules", ("Rule", *columns), f"<tbody>{''.join(rows)}</tbody>")
    return f'<section><h2>Hardest rules</h2><p class="note">Share {text(what)}.</p>{table}</section>'


def _bar(rate: float) -> str:
    width = f"{60 * min(max(rate, 0.0), 1.0):.0f}"
    inside = f'<rect class="trough" width="60" height="8"/><rect class="full" width="{width}" height="8"/>'
    return f'<svg class="bar" viewBox="0 0 60 8" aria-hidden="true">{inside}</svg>'
