"""The command ``llm-gym``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium

import llm_gym
from llm_gym.arguments import Parser, UsageError, die, explain, nearest, read_value

GROUPS = {
    "play and look": {
        "envs": "list the environments",
        "play": "play an environment yourself, in the terminal",
    },
    "train": {
        "train": "train a model; the same as python algos/NAME.py",
        "configs": "list the recipes that --config knows by name",
        "report": "write an HTML page about a run, or about several seeds of it",
    },
    "judge": {
        "eval": "evaluate a model or a scripted player, with intervals or exactly",
        "tournament": "play every player against every other: Elo ratings and a cross table",
    },
    "ship": {
        "merge": "make an ordinary Hugging Face folder of a checkpoint, adapters merged in",
        "fetch": "download models and data sets for nodes without a network",
    },
    "machine": {
        "doctor": "show what is installed, the profile of this machine, and which model fits",
        "completion": "print the completion script of a shell",
    },
}
"""Group -> command -> what it does."""
EXAMPLES = """\
examples:
  llm-gym play llmgym/ConnectFour-v0 --opponent "[random, minimax]" --show-legal true
  llm-gym train grpo --config grpo_tictactoe_tiny --run.max_steps 20
  llm-gym train grpo --help optim
  llm-gym eval --model runs/demo --env llmgym/TicTacToe-v0 --env.opponent minimax --episodes 1000

llm-gym COMMAND --help shows a command's arguments.
"""


class Command(NamedTuple):
    """What a command is; the modules ``algos.commands.NAME`` have the same two functions."""

    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], None]


def envs(given: argparse.Namespace) -> None:
    """Prints the environments, one per line."""
    for name, settings in llm_gym.GAMES.items():
        shown = " ".join(f"{key}={value}" for key, value in settings.items() if key != "text_game")
        print(f"llmgym/{name}-v0  {shown}".rstrip())


def _play_arguments(parser: Parser) -> None:
    parser.usage = "llm-gym play ID [--seed N] [--setting value ...]"
    parser.epilog = 'settings of the environment: --opponent "[random, minimax]", --seat 1, --show-legal false, ...'
    parser.add_argument("id", metavar="ID", help="an environment, such as llmgym/TicTacToe-v0; llm-gym envs lists them")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the episode (default: a new one each time)")
    parser.is_setting = lambda name: name not in ("seed", "help")


def play(given: argparse.Namespace) -> None:
    """Plays one episode; an empty line ends it."""
    settings: dict[str, Any] = {"action_format": "plain", "on_invalid": "retry:99"}
    settings |= {name.replace("-", "_"): read_value(text) for name, text in given.settings}
    if given.id not in gymnasium.registry and ":" not in given.id:
        ids = [name for name in gymnasium.registry if name.startswith("llmgym/")]
        raise UsageError(f"there is no environment {given.id!r}{nearest(given.id, ids)}")
    try:
        env: Any = gymnasium.make(given.id, **settings)
        observation, info = env.reset(seed=given.seed)
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        raise UsageError(explain(error, given.id)) from None
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


def _completion_arguments(parser: Parser) -> None:
    parser.epilog = (
        "bash: echo 'eval \"$(llm-gym completion bash)\"' >> ~/.bashrc\n"
        "zsh:  llm-gym completion zsh > FOLDER_OF_FPATH/_llm-gym"
    )
    parser.add_argument("shell", choices=["bash", "zsh"], metavar="bash|zsh", help="the shell")


def completion(given: argparse.Namespace) -> None:
    """Prints the script that completes commands, options and settings."""
    if importlib.util.find_spec("shtab") is None:
        raise UsageError('llm-gym completion needs pip install "llm-gym[completion]"')
    import shtab

    parser, parsers = build(shown=True)
    for one in parsers.values():
        if one.settings:
            one.settings(one)
    print(shtab.complete(parser, given.shell))


OWN = {
    "envs": Command(lambda parser: None, envs),
    "play": Command(_play_arguments, play),
    "completion": Command(_completion_arguments, completion),
}


def command(name: str) -> Any:
    """The functions of a command; those of the trainers import torch only when they run."""
    return OWN.get(name) or importlib.import_module(f"algos.commands.{name}")


def build(shown: bool = False) -> tuple[Parser, dict[str, Parser]]:
    """The parser of ``llm-gym``, and that of each command.

    Args:
        shown: Show the commands as an argument. The help lists them in groups instead; a completion needs them.
    """
    lines = [
        line
        for group, commands in GROUPS.items()
        for line in (f"{group}:", *(f"  {name:12}{text}" for name, text in commands.items()), "")
    ]
    about = "\n".join(["Text games for language models, and trainers on them.", "", *lines])
    parser = Parser(prog="llm-gym", usage="llm-gym COMMAND ...", description=about, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=llm_gym.__version__)
    subparsers = parser.add_subparsers(prog="llm-gym", help="a command" if shown else argparse.SUPPRESS)
    parsers: dict[str, Parser] = {}
    for name, text in ((name, text) for commands in GROUPS.values() for name, text in commands.items()):
        parsers[name] = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command(name).add_arguments(parsers[name])
    return parser, parsers


def read(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; ``command`` is the command's name."""
    parser, parsers = build()
    if not words:
        parser.print_help()
        raise SystemExit(0)
    if words[0].startswith("-"):
        parser.read(words)  # --help and --version end here
    if words[0] not in parsers:
        die(f"llm-gym has no command {words[0]!r}{nearest(words[0], parsers)}")
    given = parsers[words[0]].read(words[1:])
    given.command = words[0]
    return given


def main(argv: list[str] | None = None) -> None:
    """Runs the command that ``argv`` (by default the command line) names."""
    words = sys.argv[1:] if argv is None else argv
    try:
        given = read(words)
        command(given.command).run(given)
    except UsageError as error:
        die(error)
    except ModuleNotFoundError as error:
        if importlib.util.find_spec("torch"):
            raise
        die(f'{error}: llm-gym {words[0]} needs pip install "llm-gym[train]"')


if __name__ == "__main__":
    main()
