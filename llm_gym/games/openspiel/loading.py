"""Loads OpenSpiel's games on first use. Nothing is printed, and a failure is one line that says why."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from gymnasium.error import DependencyNotInstalled

UNPLAYABLE = {
    "chat_game": "it needs a language model and prompts of its own",
    "crossword": "its actions are structures that cannot be listed",
}
LARGEST_Y = 30
_stderr = threading.Lock()


def import_pyspiel() -> Any:
    """The module ``pyspiel``.

    Raises:
        DependencyNotInstalled: It is not installed.
    """
    try:
        return importlib.import_module("pyspiel")
    except ImportError as error:
        raise DependencyNotInstalled('OpenSpiel is not installed: pip install "llm-gym[openspiel]"') from error


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discards what OpenSpiel's C++ code prints to standard error: warnings, and exceptions before they are raised."""
    with _stderr, open(os.devnull, "wb") as devnull:
        kept = os.dup(2)
        os.dup2(devnull.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def parse_settings(game: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """All parameters, ``name`` included, of ``"hex(board_size=5)"`` and ``parameters``, which override the string's.

    Raises:
        ValueError: The string is malformed, or OpenSpiel has no such game.
    """
    pyspiel = import_pyspiel()
    with silenced():
        if "python_" in game:
            importlib.import_module("open_spiel.python.games")  # registers them
            logging.getLogger("absl").addFilter(_is_worth_saying)
        try:
            settings = {**pyspiel.game_parameters_from_string(game), **parameters}
        except (pyspiel.SpielError, RuntimeError, TypeError) as error:
            raise ValueError(f"game must be like hex(board_size=5), not {game!r}: {_first_line(error)}") from None
    name = settings.get("name")
    if name not in pyspiel.registered_names():
        raise ValueError(f"OpenSpiel has no game called {name!r}")
    if name in UNPLAYABLE:
        raise ValueError(f"OpenSpiel's {name} cannot be played as text: {UNPLAYABLE[name]}")
    return settings


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """False for hangman's warning, at every copy of a state, that it uses its own word list."""
    return "word list" not in record.getMessage()


def load_game(settings: dict[str, Any]) -> Any:
    """The ``pyspiel.Game`` for :func:`parse_settings`, turn-based if moves are simultaneous. A process loads it once.

    Raises:
        ValueError: OpenSpiel cannot load it with these parameters, or it cannot be played as text.
    """
    return _load_once(freeze(settings))


@functools.lru_cache(maxsize=1)
def _make_room_for_y() -> None:
    """Makes OpenSpiel's Y allocate its table of neighbours for every board size.

    Up to version 2.0.2 a larger board moves that table in memory, and states of a smaller one then read freed memory.
    """
    import_pyspiel().load_game(f"y(board_size={LARGEST_Y})").new_initial_state()


def load_fresh_game(settings: dict[str, Any]) -> Any:
    """:func:`load_game` without sharing, for games that hold a random generator of their own."""
    pyspiel = import_pyspiel()
    parameters = dict(settings)
    name = parameters.pop("name")
    size = parameters.get("board_size")
    if name == "y" and isinstance(size, int) and size > LARGEST_Y:
        raise ValueError(f"OpenSpiel's y is played here with a board_size of up to {LARGEST_Y}")
    with silenced():
        _make_room_for_y()
        try:
            game = pyspiel.load_game(name, parameters)
        except (pyspiel.SpielError, RuntimeError, TypeError, IndexError) as error:
            raise ValueError(f"OpenSpiel cannot load {name} with {parameters}: {_first_line(error)}") from None
        dynamics = game.get_type().dynamics
        if dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
            raise ValueError(f"OpenSpiel's {name} cannot be played as text: a mean-field game has no players to seat")
        if dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS:
            game = pyspiel.convert_to_turn_based(game)
    return game


@functools.lru_cache(maxsize=256)
def _load_once(frozen: Any) -> Any:
    return load_fresh_game(thaw(frozen))


def freeze(value: Any) -> Any:
    """Nested parameters as a hashable key. Types are distinguished, as in OpenSpiel (True is not 1)."""
    if isinstance(value, dict):
        return dict, tuple((key, freeze(item)) for key, item in sorted(value.items()))
    return type(value), value


def thaw(frozen: Any) -> Any:
    """The inverse of :func:`freeze`."""
    kind, value = frozen
    return {key: thaw(item) for key, item in value} if kind is dict else value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
