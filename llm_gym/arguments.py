"""Reading a command line: one parser class whose errors are one line, and values written as in YAML."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import gymnasium

LONGEST = 500


class UsageError(Exception):
    """A mistake of the user; the message is one line that says what is wrong and what would be right."""


def die(error: Exception | str) -> NoReturn:
    """Ends the program with one line of at most 500 characters and exit status 2."""
    line = f"error: {' '.join(str(error).split())}"
    print(line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ...", file=sys.stderr)
    raise SystemExit(2)


def nearest(name: str, known: Iterable[str], prefix: str = "", listed: Iterable[str] | None = None) -> str:
    """``; did you mean X?``, or if no known name is similar all of them; ``--seed`` is meant as ``--run.seed``.

    Args:
        prefix: Put before each name.
        listed: The names to list if none is similar. None: all.
    """
    known, bare = list(known), name.lstrip("-")
    same_key = [one for one in known if one.rpartition(".")[2] == bare]
    if close := same_key or difflib.get_close_matches(name, known, 1):
        return f"; did you mean {prefix}{close[0]}?"
    return f"; known are {', '.join(prefix + one for one in known if listed is None or one in listed)}" if known else ""


def read_value(text: str) -> Any:
    """A value as YAML reads it: ``false``, ``6.5``, ``1e-6``, ``[random, minimax]``, ``None``; else the text itself."""
    try:
        import yaml
    except ModuleNotFoundError:  # the environments alone need no YAML
        return _plain_value(text)
    try:
        value = yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text
    return None if value == "None" else as_number(value)


def _plain_value(text: str) -> Any:
    """The scalars and flat lists of :func:`read_value`, where PyYAML is not installed."""
    if text.startswith("[") and text.endswith("]"):
        return [_plain_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    words = {"true": True, "false": False, "null": None, "none": None}
    return words[text.lower()] if text.lower() in words else int(text) if text.isdecimal() else as_number(text)


def as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6 as a string; it is a number here."""
    if isinstance(value, str) and value[:1] in tuple("-+.0123456789"):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def whole(least: int) -> Callable[[str], int]:
    """The ``type`` of an argument that is a whole number of at least ``least``."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return int(text)

    return read


def real(least: float) -> Callable[[str], float]:
    """The ``type`` of an argument that is a number of at least ``least``."""

    def read(text: str) -> float:
        value = as_number(text)
        if not isinstance(value, float) or not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number of at least {least:g}, not {text!r}")
        return value

    return read


def split_settings(words: Sequence[str], is_setting: Callable[[str], bool]) -> tuple[list[tuple[str, str]], list[str]]:
    """Separates ``--name value`` and ``--name=value``, where ``name`` is a setting, from the other words.

    Raises:
        UsageError: The last setting has no value.
    """
    settings: list[tuple[str, str]] = []
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word[2:].partition("=")
        if not (word.startswith("--") and name and is_setting(name)):
            rest.append(word)
            continue
        given = value if equals else next(remaining, None)
        if given is None:
            raise UsageError(f"--{name} needs a value")
        settings.append((name, given))
    return settings, rest


def as_words(settings: Iterable[tuple[str, str]]) -> list[str]:
    """Settings as a command line writes them."""
    return [f"--{name}={text}" for name, text in settings]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2. It refuses an unknown option before a missing one.

    Attributes:
        is_setting: Tells which options are settings: :meth:`read` collects them, in order, as ``settings``.
        settings: Adds an option for each known setting, for help and completion.
        settings_in_help: Whether the help shows them.
    """

    is_setting: Callable[[str], bool] | None = None
    settings: Callable[[Parser], None] | None = None
    settings_in_help = True

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def accept_settings(self, settings: Callable[[Parser], None] | None = None, *names: str) -> None:
        """Takes ``--section.key``, ``--config``, ``--profile`` and each ``--name`` of ``names`` as settings."""
        self.is_setting = lambda name: "." in name or name in ("config", "profile", *names)
        self.settings = settings
        self.add_argument("--config", metavar="FILE", help="a YAML file or a recipe's name; of several the later wins")
        self.add_argument("--profile", metavar="NAME", help="a hardware profile: auto, cpu, v100, a100, h100, h200")

    def error(self, message: str) -> NoReturn:
        die(f"{message}; usage: {self.usage}" if self.usage else message)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments in ``words``; ``settings`` holds those of :attr:`is_setting` as (name, text)."""
        settings: list[tuple[str, str]] = []
        if self.is_setting:
            try:
                settings, words = split_settings(words, self.is_setting)
            except UsageError as error:
                self.error(str(error))
        if not any(action.nargs == argparse.REMAINDER for action in self._actions):
            options = [name for name in self._option_string_actions if name.startswith("--")]
            unknown = [
                name for word in words if (name := word.partition("=")[0]).startswith("--") and name not in options
            ]
            if unknown:
                if self.settings:
                    self.settings(self)  # one of these may be meant
                die(f"unknown option {unknown[0]}{nearest(unknown[0], self._option_string_actions, listed=options)}")
        given, rest = self.parse_known_args(words, argparse.Namespace(settings=settings))
        if rest:
            self.error(f"unexpected argument {rest[0]!r}")
        return given

    def format_help(self) -> str:
        if self.settings and self.settings_in_help:
            self.settings(self)
            self.settings = None
        return super().format_help()


def explain(error: Exception, env_id: str) -> str:
    """An error of ``gymnasium.make``, for an unknown setting with the nearest right name."""
    message = str(error).partition(" was raised from the environment creator")[0]
    unknown = re.search(r"unexpected keyword argument '(.*)'", message)
    return f"{env_id} has no setting {unknown[1]!r}{nearest(unknown[1], _settings_of(env_id))}" if unknown else message


def _settings_of(env_id: str) -> list[str]:
    """The names of an environment's settings, its game's included."""
    spec = gymnasium.spec(env_id)
    makers = [spec.entry_point, spec.kwargs.get("text_game")]
    names: list[str] = []
    for maker in makers:
        if isinstance(maker, str):
            module, _, name = maker.partition(":")
            maker = getattr(importlib.import_module(module), name)
        if maker:
            kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            names += [p.name for p in inspect.signature(maker).parameters.values() if p.kind in kinds]
    return [name for name in names if name != "text_game"]
