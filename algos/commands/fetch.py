"""``llm-gym fetch``: fills the cache where there is a network, for nodes that have none."""

from __future__ import annotations

import argparse

from llm_gym.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.usage = "llm-gym fetch MODEL|mbpp|mbpp:sanitized ..."
    parser.add_argument(
        "names", nargs="+", metavar="MODEL|mbpp|mbpp:sanitized", help="a MODEL is owner/name, such as Qwen/Qwen3-0.6B"
    )


def run(given: argparse.Namespace) -> None:
    from algos.cluster.fetch import fetch

    fetch(given.names)
