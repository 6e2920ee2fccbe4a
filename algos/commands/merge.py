"""``llm-gym merge``: a checkpoint as an ordinary Hugging Face folder, adapters merged into the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm_gym.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.epilog = "example:\n  llm-gym merge runs/run/checkpoints/step_000100 --out my-model --dtype bfloat16"
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="runs/RUN/checkpoints/step_N, or an adapter"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="data type of the written weights (default: that of the base)",
    )
    parser.add_argument(
        "--quantize",
        choices=["nf4"],
        help="merge into the base as NF4 rounds it, on which the adapter was trained "
        "(default: as the checkpoint's run says)",
    )


def run(given: argparse.Namespace) -> None:
    from algos.model.merge import merge

    merge(given.checkpoint, given.out, given.dtype, given.quantize)
    print(given.out)
