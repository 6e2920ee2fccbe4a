"""``llm-gym report``: one page about one run, or about several seeds of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm_gym.arguments import Parser, UsageError, whole


def add_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; several: its other seeds")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html; of several: ./report.html")
    parser.add_argument("--episodes", type=whole(0), metavar="N", help="maximum episodes in the page (default: 5000)")


def run(given: argparse.Namespace) -> None:
    from algos.report.page import EPISODES, write_report

    for folder in given.runs:
        if not (folder / "config.yaml").is_file():
            raise UsageError(f"{folder} holds no run: it has no config.yaml")
    out = given.out or (given.runs[0] if len(given.runs) == 1 else Path()) / "report.html"
    try:
        write_report(given.runs, out, EPISODES if given.episodes is None else given.episodes)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from None
    print(out)
