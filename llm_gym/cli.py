"""The command ``llm-gym``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium

import llm_gym

ALGORITHMS = ("grpo", "ppo", "spiral", "sft")
EXTRAS = {
    "train": "torch",
    "openspiel": "pyspiel",
    "pettingzoo": "pettingzoo",
    "serve": "fastapi",
    "deepspeed": "deepspeed",
    "vllm": "vllm",
    "quantize": "bitsandbytes",
}
"""Extra -> the module that tells whether it is installed."""


def _die(message: object) -> NoReturn:
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def _trainer(module: str) -> Callable[[list[str]], None]:
    try:
        return importlib.import_module(module).main
    except ModuleNotFoundError as error:
        _die(f'{error}: training needs pip install "llm-gym[train]"')


def envs(argv: list[str]) -> None:
    """llm-gym envs: the environments, one a line"""
    if argv:
        _die("llm-gym envs takes no arguments")
    for name, settings in llm_gym.GAMES.items():
        shown = " ".join(f"{key}={value}" for key, value in settings.items() if key != "text_game")
        print(f"llmgym/{name}-v0  {shown}".rstrip())


def play(argv: list[str]) -> None:
    """llm-gym play ID [--setting value ...]: play it here yourself; an empty line ends it"""
    if not argv or argv[0].startswith("-") or len(argv) % 2 == 0:
        _die("usage: llm-gym play llmgym/TicTacToe-v0 [--opponent minimax] [--seat 1] [--seed 7] ...")
    settings: dict[str, Any] = {"action_format": "plain", "on_invalid": "retry:99"}
    for name, value in zip(argv[1::2], argv[2::2], strict=True):
        if not name.startswith("--"):
            _die(f"unexpected argument {name!r}: settings are written --name value")
        settings[name[2:].replace("-", "_")] = int(value) if value.lstrip("-").isdigit() else value
    seed = settings.pop("seed", None)
    try:
        env: Any = gymnasium.make(argv[0], **settings)
        observation, info = env.reset(seed=seed)
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        _die(error)
    print(info["messages"][0]["content"])
    over = "outcome" in info
    while not over:
        print(f"\n{observation}")
        try:
            reply = input("> ")
        except (EOFError, KeyboardInterrupt):
            reply = ""
        if not reply:
            return
        observation, _, terminated, truncated, info = env.step(reply)
        over = terminated or truncated
    print(f"\n{observation}\n\n{info['outcome']}, returns {info['returns']}")


def train(argv: list[str]) -> None:
    """llm-gym train ALGORITHM --config FILE [--section.key value ...]: the same as python algos/ALGORITHM.py ..."""
    if not argv or argv[0] not in ALGORITHMS:
        _die(f"usage: llm-gym train {{{','.join(ALGORITHMS)}}} --config configs/grpo_tictactoe_tiny.yaml ...")
    _trainer(f"algos.{argv[0]}")(argv[1:])


def report(argv: list[str]) -> None:
    """llm-gym report RUN [RUN ...] [--out FILE] [--episodes N]: one page about one run, or about several seeds of it"""
    _trainer("algos.report.page")(argv)


def merge(argv: list[str]) -> None:
    """llm-gym merge CHECKPOINT --out FOLDER [--dtype D]: an ordinary Hugging Face folder, adapters merged in"""
    _trainer("algos.commands.merge")(argv)


def evaluate(argv: list[str]) -> None:
    """llm-gym eval --model FOLDER_OR_ID | --policy NAME [--env ID ...] [--exact] ...: figures with intervals"""
    _trainer("algos.commands.eval")(argv)


def tournament(argv: list[str]) -> None:
    """llm-gym tournament --players A B ... [--games ID ...]: round robin, Elo, cross table"""
    _trainer("algos.evaluation.tournament")(argv)


def doctor(argv: list[str]) -> None:
    """llm-gym doctor [--model ID] [--config FILE] [--processes N] [--zero STAGE]: what is installed, found, and fits"""
    from llm_gym.sandbox import probe

    trains = importlib.util.find_spec(EXTRAS["train"]) is not None
    if argv and not trains:
        _die('llm-gym doctor with arguments needs pip install "llm-gym[train]"')
    if trains:
        _trainer("algos.commands.doctor")(argv)
        print()
    print(f"Python {sys.version.split()[0]}, llm_gym {llm_gym.__version__}\n\nExtras")
    for extra, module in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        print(f"  {extra:16} {'yes' if found else 'no: pip install llm-gym[' + extra + ']'}")
    print("\nSandbox")
    for layer in probe():
        print(f"  {layer.name:16} {'holds' if layer.holds else 'MISSING'}: {layer.detail}")


def fetch(argv: list[str]) -> None:
    """llm-gym fetch MODEL|mbpp ...: fills the cache where there is a network, for nodes that have none"""
    _trainer("algos.commands.fetch")(argv)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "envs": envs,
    "play": play,
    "train": train,
    "eval": evaluate,
    "tournament": tournament,
    "report": report,
    "merge": merge,
    "doctor": doctor,
    "fetch": fetch,
}


def main(argv: list[str] | None = None) -> None:
    """Runs the command that ``argv`` (by default the command line) names."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print("\n".join(command.__doc__ or "" for command in COMMANDS.values()))
        return
    if words[0] == "--version":
        print(llm_gym.__version__)
        return
    if words[0] not in COMMANDS:
        _die(f"llm-gym has no command {words[0]!r}; it has {', '.join(COMMANDS)}")
    COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    main()
