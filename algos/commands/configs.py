"""``llm-gym configs``: the recipes that ``--config`` knows by name."""

from __future__ import annotations

import argparse

from algos.config.scripts import script_of
from llm_gym.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.epilog = "example:\n  llm-gym train grpo --config grpo_tictactoe_tiny"


def run(given: argparse.Namespace) -> None:
    from algos.config.load import read_yaml
    from algos.config.recipes import recipes

    rows = [("name", "trainer", "environment", "model", "what it is")]
    for name, file in recipes().items():
        sections = read_yaml(file)
        model = sections.get("model", {}).get("path", "tiny")
        first = file.read_text().partition("\n")[0].lstrip("# ")
        rows.append((name, script_of(sections) or "", sections.get("env", {}).get("id", ""), model, first))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]))
