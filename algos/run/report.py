"""The page a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def last_line(name: str, result: dict[str, Any]) -> str:
    """An evaluation in one line: rates in per cent, each with its 95 % interval."""
    if not result.get("episodes"):
        return f"{name:>6}: not evaluated"
    rates = [
        f"{rate} {result[f'{rate}_rate']:.1%} [{result[f'{rate}_low']:.1%}, {result[f'{rate}_high']:.1%}]"
        for rate in ("win", "draw", "loss", "invalid")
    ]
    return f"{name:>6}: {', '.join(rates)}, mean return {result['mean_return']:+.3f} ({result['episodes']} games)"


def write_report(runs: list[Path], out: Path) -> None:
    out.write_text("<html></html>")
