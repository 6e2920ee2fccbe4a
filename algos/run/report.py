"""The page a run leaves behind: before and after, curves, three games to read, and how to repeat it.

    python -m algos.run.report RUN [RUN ...] [--out FILE]

The page is one file: it fetches nothing and runs no script, so whatever a model replied is only ever text on it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from algos.run.charts import Interval, interval_chart, line_chart, line_of, number, window
from algos.run.config import die
from algos.run.report_games import COLOURS, games, text
from algos.run.run_folder import Json, Run, Triple, evaluation, is_number, triple


def last_line(name: str, result: dict[str, Any]) -> str:
    """An evaluation in one line: rates in per cent, each with its 95 % interval."""
    if not result.get("episodes"):
        return f"{name:>6}: not evaluated"
    rates = [
        f"{rate} {result[f'{rate}_rate']:.1%} [{result[f'{rate}_rate_low']:.1%}, {result[f'{rate}_rate_high']:.1%}]"
        for rate in ("win", "draw", "loss", "invalid")
    ]
    return f"{name:>6}: {', '.join(rates)}, mean return {result['mean_return']:+.3f} ({result['episodes']} games)"


def write_report(runs: list[Path], out: Path) -> None:
    """Writes one page over ``runs``: a single run, or several that differ in their seeds.

    Args:
        runs: Folders of runs, finished or not.
        out: The HTML file to write.
    """
    read = [Run.read(folder) for folder in runs]
    before, after = evaluation(read, "before"), evaluation(read, "after")
    page = Template(Path(__file__).with_name("report_page.html").read_text(encoding="utf-8"))
    parts = [_results(read, before, after), _curves(read), games(read), _repeat(read)]
    whole = page.substitute(title=text(_title(read)), header=_header(read, before, after), main="\n".join(parts))
    out.write_text(whole, encoding="utf-8", errors="backslashreplace")


def _header(runs: Sequence[Run], before: Json, after: Json) -> str:
    """Title, the line before -> after, and what the run consisted of."""
    parts = [f"<h1>{text(_title(runs))}</h1>"]
    parts.append(f'<p class="sub">{text(_each(run.settings.get("run.name", run.folder.name) for run in runs))}</p>')
    old, new = triple(before, "win_rate"), triple(after, "win_rate")
    if old and new:
        ends = [f"<b>{rate:.1%}</b> <small>[{low:.1%}, {high:.1%}]</small>" for rate, low, high in (old, new)]
        line = f"Games {_labels(runs)['win_rate']}: <span>{ends[0]}</span> <span>&rarr; {ends[1]}</span>"
        parts.append(f'<p class="headline">{line}</p>')
    facts = {
        "Runs": len(runs) if len(runs) > 1 else "",
        "Seed": _each(run.settings.get("run.seed", "") for run in runs),
        "Steps": _each(f"{run.steps:,}" for run in runs),
        "Episodes": _each(f"{run.summary['episodes']:,}" for run in runs if is_number(run.summary.get("episodes"))),
        "Tokens sampled": _each(f"{sum(n):,.0f}" for n in (run.curve("tokens/sampled").values() for run in runs) if n),
        "Time": _each(_duration(run.summary["wall_s"]) for run in runs if is_number(run.summary.get("wall_s"))),
        "Opponent": _each(run.settings.get("env.opponent", "") for run in runs),
    }
    shown = [f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items() if value]
    parts.append(f"<dl>{''.join(shown)}</dl>")
    unfinished = sum(not run.summary for run in runs)
    if unfinished:
        which = "This run has" if len(runs) == 1 else f"{unfinished} of {len(runs)} runs have"
        parts.append(f"<p>{which} not finished. Before and after are written at the end.</p>")
    every = {key for run in runs for key in run.settings} - {"run.seed", "run.name", "run.dir"}
    differ = [key for key in sorted(every) if len({str(run.settings.get(key)) for run in runs}) > 1]
    if differ:
        parts.append(f"<p><b>These runs differ in more than their seed:</b> {text(', '.join(differ))}.</p>")
    return "\n".join(parts)


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _title(runs: Sequence[Run]) -> str:
    algorithms = _each(run.algorithm.upper() for run in runs if run.algorithm)
    return " on ".join(filter(None, (algorithms, _each(run.env for run in runs if run.env)))) or "A run"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """What each figure of an evaluation is called."""
    alone = any(run.alone for run in runs)
    labels = {"win_rate": "solved", "loss_rate": "failed"} if alone else {}
    labels = labels or {"win_rate": "won", "draw_rate": "drawn", "loss_rate": "lost"}
    return labels | {"invalid_rate": "invalid reply", "mean_return": "mean return"}


def _results(runs: Sequence[Run], before: Json, after: Json) -> str:
    """Before and after as a picture and as a table, overall and by seat."""
    if not before and not after:
        return ""
    labels = _labels(runs)
    groups = {"All games": (before, after)}
    for seat in sorted({*before.get("seats", {}), *after.get("seats", {})}):
        old, new = (result.get("seats", {}).get(seat, {}) for result in (before, after))
        groups[f"Seat {seat}"] = old, new
    cards, bodies = [], []
    for name, pair in groups.items():
        rates = [Interval(label, *(triple(r, key) for r in pair)) for key, label in labels.items() if "rate" in key]
        picture = interval_chart(f"{name}: before and after", rates)
        cards.append(f'<div class="card"><h3>{text(name)}</h3>{picture}</div>')
        played = " and ".join(dict.fromkeys(f"{result.get('episodes', 0):,}" for result in pair))
        rows = [f'<th scope="rowgroup" colspan="3">{text(name)} <small>{played} games</small></th>']
        for key, label in labels.items():
            rows.append(f'<th scope="row">{label}</th>' + "".join(_cell(key, triple(result, key)) for result in pair))
        bodies.append(f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>")
    over = "95 % intervals" + (", Student's over the runs where they differ" if len(runs) > 1 else "")
    return f"""<section><h2>Before and after</h2>
<ul class="legend"><li><i class="ring"></i>before</li><li><i class="disc"></i>after</li><li>bars: {over}</li></ul>
<div class="grid-of">{"".join(cards)}</div>
<p class="note">What is missing to 100 % was cut short by a limit.</p>
{_table("Before and after", ("", "Before", "After"), "".join(bodies))}
{_each_run(runs, labels["win_rate"]) if len(runs) > 1 else ""}</section>"""


def _each_run(runs: Sequence[Run], label: str) -> str:
    rows = []
    for run in runs:
        cells = [f"<td>{text(cell)}</td>" for cell in (run.settings.get("run.seed", ""), f"{run.steps:,}")]
        cells += [_cell("win_rate", triple(evaluation([run], when), "win_rate")) for when in ("before", "after")]
        rows.append(f'<tr><th scope="row">{text(run.folder)}</th>{"".join(cells)}</tr>')
    columns = ("Run", "Seed", "Steps", f"Before, {label}", f"After, {label}")
    return "<h2>Each run</h2>" + _table("Each run", columns, f"<tbody>{''.join(rows)}</tbody>")


def _table(label: str, columns: Sequence[str], bodies: str) -> str:
    head = "".join(f'<th scope="col">{column}</th>' if column else "<td></td>" for column in columns)
    table = f"<table><thead><tr>{head}</tr></thead>{bodies}</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _cell(key: str, found: Triple | None) -> str:
    if found is None:
        return "<td>not known</td>"
    value, low, high = (f"{figure:+.3f}" if key == "mean_return" else f"{figure:.1%}" for figure in found)
    return f'<td><data value="{found[0]!r}">{value}</data> <small>[{low}, {high}]</small></td>'


def _curves(runs: Sequence[Run]) -> str:
    """Every metric over steps: what matters first, the others folded away."""
    keys = list(dict.fromkeys(key for run in runs for row in run.metrics for key in row if key != "step"))
    if not keys:
        return "<section><h2>Curves</h2><p>No step has been logged yet.</p></section>"
    hidden = {f"outcome/{name}" for name in ("win", "draw", "loss")} if any(run.alone for run in runs) else set()
    order = {name: place for place, name in enumerate(COLOURS)}

    def family(prefix: str, suffix: str = "") -> list[str]:
        found = [key for key in keys if key.startswith(prefix) and key.endswith(suffix) and key not in hidden]
        return sorted(found, key=lambda key: order.get(_short_name(key), len(order)))

    charts = [("Mean reward", ["reward/mean"]), ("How games ended", family("outcome/")), ("Replies", family("parse/"))]
    charts += [("Evaluations during training", family("eval/", "_rate")), ("Entropy", ["policy/entropy"])]
    charts += [("Loss", [key]) for key in family("losses/")]
    charts += [("Groups without signal", ["groups/no_signal"]), ("Tokens per second", ["time/tokens_per_second"])]
    told = hidden.union(*(part for _, part in charts))
    rest = [key for key in keys if key not in told and not key.endswith(("_low", "_high"))]
    more = "".join(_card(runs, "", [key]) for key in rest)
    span = window(max(len(run.metrics) for run in runs))
    faint = f"the centred mean over {span} steps" if span > 1 else "every step"
    note = f"Bold: {faint}; faint: each step." if span > 1 else "Every step is shown."
    if len(runs) > 1:
        note = f"Bold: the mean over {len(runs)} runs; band: Student's 95 % interval of it; faint: each run ({faint})."
    folded = f'<details><summary>All other metrics</summary><div class="grid-of">{more}</div></details>'
    return f"""<section><h2>Curves</h2><p class="note">{note}</p>
<div class="grid-of">{"".join(_card(runs, title, part) for title, part in charts)}</div>
{folded if more else ""}</section>"""


def _short_name(key: str) -> str:
    return key.split("/", 1)[-1].removesuffix("_rate")


def _card(runs: Sequence[Run], title: str, keys: list[str]) -> str:
    """One chart with its legend: each line's first and last value."""
    lines = []
    for key in keys:
        line = line_of(_short_name(key), COLOURS.get(_short_name(key), "good"), [run.curve(key) for run in runs])
        if len(runs) == 1 and key.endswith("_rate"):
            low, high = (runs[0].curve(f"{key}_{end}") for end in ("low", "high"))
            line.band = [(step, low[step], high[step]) for step in sorted(low) if step in high]
        if line.points:
            lines.append(line)
    if not lines:
        return ""
    percent = keys[0].startswith(("outcome/", "parse/", "groups/")) or keys[0].endswith("_rate")
    legend = []
    for line in lines:
        ends = dict.fromkeys(number(value, percent) for _, value in (line.points[0], line.points[-1]))
        name = f'<i class="{line.colour}"></i>{text(line.name)} ' if len(lines) > 1 else ""
        legend.append(f"<li>{name}<b>{' &rarr; '.join(ends)}</b></li>")
    heading = f"{title} <code>{text(keys[0])}</code>" if len(keys) == 1 else title
    return f"""<div class="card"><h3>{heading}</h3><ul class="legend">{"".join(legend)}</ul>
{line_chart(f"{title or keys[0]} over steps", lines, percent)}</div>"""


def _repeat(runs: Sequence[Run]) -> str:
    """The command that repeats each run, and its resolved settings, those left at their default in grey."""
    parts = []
    for run in runs:
        if run.algorithm and run.config_text:
            command = ["python", f"algos/{run.algorithm}.py", "--config", str(run.folder / "config.yaml")]
            line = shlex.join([*command, "--run.dir", f"{run.folder}-again"])
            parts.append(f'<pre class="command">{text(line)}</pre>')
    for run in runs:
        lines = [
            f'<span class="{"dim" if line.endswith("# default") else "set"}">{text(line)}</span>'
            for line in run.config_text.splitlines()
        ]
        which = f" of {text(run.folder)}" if len(runs) > 1 else ""
        parts.append("<details><summary>Settings{}</summary><pre>{}</pre></details>".format(which, "\n".join(lines)))
    return f"<section><h2>Repeat it</h2>{''.join(parts)}</section>"


def main(argv: list[str]) -> None:
    """``RUN [RUN ...] [--out FILE]``; ends with one line and exit status 2 where a folder holds no run."""
    parser = argparse.ArgumentParser(prog="llm-gym report", description="One self-contained HTML page over runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder; several: other seeds of it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html; of several: ./report.html")
    given = parser.parse_args(argv)
    for folder in given.runs:
        if not (folder / "config.yaml").is_file():
            die(f"{folder} holds no run: it has no config.yaml")
    out = given.out or (given.runs[0] if len(given.runs) == 1 else Path()) / "report.html"
    try:
        write_report(given.runs, out)
    except OSError as error:
        die(f"{out} cannot be written: {error.strerror}")
    print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
