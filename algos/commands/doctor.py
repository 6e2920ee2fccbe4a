"""``llm-gym doctor``: what is installed, the profile of this machine, the sandbox, and the memory a model takes."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

import llm_gym
from algos.commands import settings_of
from llm_gym.arguments import Parser, UsageError, as_words, whole

EXTRAS = {
    "train": "torch",
    "openspiel": "pyspiel",
    "pettingzoo": "pettingzoo",
    "serve": "fastapi",
    "deepspeed": "deepspeed",
    "vllm": "vllm",
    "quantize": "bitsandbytes",
    "completion": "shtab",
}
"""Extra -> the module that tells whether it is installed."""


def add_arguments(parser: Parser) -> None:
    parser.usage = "llm-gym doctor [--model PATH] [--config FILE] [--section.key value ...] [option ...]"
    parser.epilog = (
        "examples:\n  llm-gym doctor --model Qwen/Qwen3-4B --profile a100\n"
        "  llm-gym doctor --config grpo_code_qwen3-4b --processes 4 --zero 3"
    )
    parser.add_argument("--model", metavar="PATH", help="a Hugging Face folder or id: estimate its memory")
    parser.add_argument("--processes", type=whole(1), metavar="N", help="processes (default: one for each GPU)")
    parser.add_argument("--zero", type=int, choices=range(4), default=0, help="ZeRO stage of DeepSpeed (default: 0)")
    parser.accept_settings(settings_of("TrainConfig", "model", "rollout", "optim"))


def run(given: argparse.Namespace) -> None:
    from llm_gym.sandbox import probe

    trains = find_spec(EXTRAS["train"]) is not None
    if trains:
        from algos.cluster.diagnosis import diagnose

        words = as_words(given.settings) + ([f"--model={given.model}"] if given.model else [])
        print("\n".join(diagnose(words, given.processes, given.zero)), end="\n\n")
    elif given.model or given.settings:
        raise UsageError('llm-gym doctor with a model or settings needs pip install "llm-gym[train]"')
    print(f"Python {sys.version.split()[0]}, llm_gym {llm_gym.__version__}\n\nExtras")
    for extra, module in EXTRAS.items():
        print(f"  {extra:16} {'yes' if find_spec(module) else f'no: pip install llm-gym[{extra}]'}")
    print("\nSandbox")
    for layer in probe():
        print(f"  {layer.name:16} {'holds' if layer.holds else 'MISSING'}: {layer.detail}")
