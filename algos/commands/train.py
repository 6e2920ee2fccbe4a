"""``llm-gym train``: runs a script of ``algos`` as ``python algos/NAME.py`` does."""

from __future__ import annotations

import argparse
import runpy
import sys

from algos.commands import settings_of
from algos.config.scripts import scripts
from llm_gym.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.usage = "llm-gym train NAME [--config FILE] [--section.key value ...]"
    parser.epilog = (
        "llm-gym train NAME --help shows every setting of the trainer; --help optim those of a section.\n\n"
        "example:\n  llm-gym train grpo --config grpo_tictactoe_tiny --run.max_steps 20 --env.opponent minimax"
    )
    parser.settings, parser.settings_in_help = settings_of("TrainConfig"), False
    names = tuple(scripts())
    parser.add_argument("name", choices=names, metavar="NAME", help=f"a trainer: {', '.join(names)}")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENTS",
        help="its arguments: --config FILE, --section.key value",
    )


def run(given: argparse.Namespace) -> None:
    sys.argv = [str(scripts()[given.name]), *given.arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
