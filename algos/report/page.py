"""The page a run leaves behind: before and after, curves, a browser of its episodes, and how to repeat it.

    llm-gym report RUN [RUN ...] [--out FILE] [--episodes N]

The page is one file that fetches nothing. Its one script adds what a model replied only as text, and the page's policy
lets no other run. Where scripts are off, three games are shown in the browser's place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from algos.report import curves, results
from algos.report.episodes import episodes_as_json
from algos.report.templates import TEMPLATES
from algos.run_folder.read import Run, evaluation, is_number, pick_games, with_interval

EPISODES = 5000
"""Episodes in a page, by default."""


def last_line(name: str, result: dict[str, Any]) -> str:
    """An evaluation in one line: rates in per cent, each with its 95 % interval."""
    if not result.get("episodes"):
        return f"{name:>6}: not evaluated"
    rates = [f"{rate} {with_interval(result, f'{rate}_rate')}" for rate in ("win", "draw", "loss", "invalid")]
    return f"{name:>6}: {', '.join(rates)}, mean return {result['mean_return']:+.3f} ({result['episodes']} games)"


def write_report(runs: list[Path], out: Path, episodes: int = EPISODES) -> None:
    """Writes one page over ``runs``: a single run, or several that differ in their seeds.

    Args:
        runs: Folders of runs, finished or not.
        out: The HTML file to write.
        episodes: Maximum number of episodes in the page.
    """
    read = [Run.read(folder) for folder in runs]
    before, after = evaluation(read, "before"), evaluation(read, "after")
    games = {run.folder: pick_games(run.folder) for run in read}
    games_of = next((folder for folder, picked in games.items() if picked), None)
    settings = {key for run in read for key in run.settings} - {"run.seed", "run.name", "run.dir"}
    assets = {name: Path(__file__).with_name(f"page.{name}").read_text(encoding="utf-8") for name in ("js", "css")}
    digests = {name: hashlib.sha256(asset.encode()).digest() for name, asset in assets.items()}
    page = TEMPLATES.get_template("page.html").render(
        title=_title(read),
        names=_each(run.settings.get("run.name", run.folder.name) for run in read),
        runs=read,
        several=len(read) > 1,
        before=before,
        after=after,
        labels=results.labels(read),
        facts=_facts(read),
        differ=[key for key in sorted(settings) if len({str(run.settings.get(key)) for run in read}) > 1],
        groups=list(results.groups(read, before, after)),
        rules=results.rules(read, before, after),
        charts=curves.charts(read),
        curves_note=curves.note(read),
        games_of=games_of,
        games=games[games_of] if games_of else [],
        episodes=episodes_as_json(read, episodes),
        assets=assets,
        hashes={name: "sha256-" + base64.b64encode(digest).decode() for name, digest in digests.items()},
    )
    out.write_text(page, encoding="utf-8", errors="backslashreplace")


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    """What the runs consisted of; what is not known is empty."""
    return {
        "Runs": str(len(runs)) if len(runs) > 1 else "",
        "Seed": _each(run.settings.get("run.seed", "") for run in runs),
        "Steps": _each(f"{run.steps:,}" for run in runs),
        "Episodes": _each(f"{run.summary['episodes']:,}" for run in runs if is_number(run.summary.get("episodes"))),
        "Tokens sampled": _each(f"{sum(n):,.0f}" for n in (run.curve("tokens/sampled").values() for run in runs) if n),
        "Time": _each(_duration(run.summary["wall_s"]) for run in runs if is_number(run.summary.get("wall_s"))),
        "Opponent": _each(run.settings.get("env.opponent", "") for run in runs),
    }


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _title(runs: Sequence[Run]) -> str:
    algorithms = _each(run.algorithm.upper() for run in runs if run.algorithm)
    return " on ".join(filter(None, (algorithms, _each(run.env for run in runs if run.env)))) or "A run"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
