"""The page a run leaves behind: before and after, curves, a browser of its episodes, and how to repeat it.

    llm-gym report RUN [RUN ...] [--out FILE] [--episodes N]

The page is one file that fetches nothing. Its one script adds what a model replied only as text, and the page's policy
lets no other run. Where scripts are off, three games are shown in the browser's place.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from algos.report.curves import curves
from algos.report.episodes import episodes_as_json
from algos.report.games import games, text
from algos.report.results import labels, results
from algos.run_folder.read import Json, Run, evaluation, is_number, triple

EPISODES = 5000
"""Episodes in a page, by default."""


def last_line(name: str, result: dict[str, Any]) -> str:
    """An evaluation in one line: rates in per cent, each with its 95 % interval."""
    if not result.get("episodes"):
        return f"{name:>6}: not evaluated"
    rates = [
        f"{rate} {result[f'{rate}_rate']:.1%} [{result[f'{rate}_rate_low']:.1%}, {result[f'{rate}_rate_high']:.1%}]"
        for rate in ("win", "draw", "loss", "invalid")
    ]
    return f"{name:>6}: {', '.join(rates)}, mean return {result['mean_return']:+.3f} ({result['episodes']} games)"


def write_report(runs: list[Path], out: Path, episodes: int = EPISODES) -> None:
    """Writes one page over ``runs``: a single run, or several that differ in their seeds.

    Args:
        runs: Folders of runs, finished or not.
        out: The HTML file to write.
        episodes: At most so many are put into the page.
    """
    read = [Run.read(folder) for folder in runs]
    before, after = evaluation(read, "before"), evaluation(read, "after")
    script, style = _asset("page.js"), _asset("page.css")
    whole = Template(_asset("page.html")).substitute(
        title=text(_title(read)),
        header=_header(read, before, after),
        main="\n".join([results(read, before, after), curves(read), games(read)]),
        repeat=_repeat(read),
        episodes=episodes_as_json(read, episodes),
        script=script,
        script_hash=_hash(script),
        style=style,
        style_hash=_hash(style),
    )
    out.write_text(whole, encoding="utf-8", errors="backslashreplace")


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """What a content security policy calls this script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _header(runs: Sequence[Run], before: Json, after: Json) -> str:
    """Title, the line before -> after, and what the run consisted of."""
    parts = [f"<h1>{text(_title(runs))}</h1>"]
    parts.append(f'<p class="sub">{text(_each(run.settings.get("run.name", run.folder.name) for run in runs))}</p>')
    old, new = triple(before, "win_rate"), triple(after, "win_rate")
    if old and new:
        ends = [f"<b>{rate:.1%}</b> <small>[{low:.1%}, {high:.1%}]</small>" for rate, low, high in (old, new)]
        line = f"Games {labels(runs)['win_rate']}: <span>{ends[0]}</span> <span>&rarr; {ends[1]}</span>"
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
