"""``llm-gym report``: one page about one run, or about several seeds of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from algos.errors import die
from algos.report.page import EPISODES, write_report


def main(argv: list[str]) -> None:
    """``RUN [RUN ...] [--out FILE] [--episodes N]``; one line and exit status 2 where a folder holds no run."""
    parser = argparse.ArgumentParser(prog="llm-gym report", description="One self-contained HTML page over runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder; several: other seeds of it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html; of several: ./report.html")
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, metavar="N", help="put at most N into the page (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    if given.episodes < 0:
        die(f"--episodes must be 0 or more, not {given.episodes}")
    for folder in given.runs:
        if not (folder / "config.yaml").is_file():
            die(f"{folder} holds no run: it has no config.yaml")
    out = given.out or (given.runs[0] if len(given.runs) == 1 else Path()) / "report.html"
    try:
        write_report(given.runs, out, given.episodes)
    except OSError as error:
        die(f"{out} cannot be written: {error.strerror}")
    print(out)
