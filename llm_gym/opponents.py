"""Who sits in the other seats: random, first, minimax, or any callable ``(observation, info) -> reply``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from llm_gym.game import TextGame

Reply = Callable[[str, dict[str, Any]], str]
"""A player as a callable: the observation and the ``info`` of its seat in, the whole reply out."""


class Player(Protocol):
    """A scripted player: it looks at the game itself and names a legal action for the player to move."""

    def choose(self, game: TextGame, rng: np.random.Generator) -> str: ...


def _legal(game: TextGame, player: object) -> list[str]:
    legal = game.legal_actions()
    if not legal:
        raise ValueError(
            f"{type(player).__name__} needs a game that lists its legal actions; {type(game).__name__} does not"
        )
    return legal


class Random:
    """Plays each legal action with equal probability."""

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        legal = _legal(game, self)
        return legal[int(rng.random() * len(legal))]


class First:
    """Plays the first legal action."""

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        return _legal(game, self)[0]


# Exact values are pure functions of a state, so every minimax player of the process shares them.
_VALUES: dict[tuple[type[TextGame], bytes], float] = {}


def minimax_value(game: TextGame) -> float:
    """The value of ``game`` to player 0 when both play perfectly.

    For two players, zero sum, no chance, nothing hidden. Every state reachable from here is visited once and kept.
    """
    if game.current_player is None:
        return game.returns()[0]
    key = (type(game), game.serialize())
    if key not in _VALUES:
        best = max if game.current_player == 0 else min
        _VALUES[key] = best(minimax_value(child) for _, child in _children(game))
    return _VALUES[key]


def _children(game: TextGame) -> list[tuple[str, TextGame]]:
    children = []
    for action in game.legal_actions() or []:
        child = game.clone()
        child.apply(action)
        children.append((action, child))
    return children


class Minimax:
    """Plays perfectly; among equally good actions it picks at random."""

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        if game.num_players != 2 or game.has_chance or not game.perfect_information:
            raise ValueError(f"minimax needs two players, no chance and nothing hidden; {type(game).__name__} differs")
        sign = 1.0 if game.current_player == 0 else -1.0
        scored = [(sign * minimax_value(child), action) for action, child in _children(game)]
        top = max(value for value, _ in scored)
        best = [action for value, action in scored if value == top]
        return best[int(rng.random() * len(best))]


PLAYERS: dict[str, Callable[[], Player]] = {"random": Random, "first": First, "minimax": Minimax}


def make_player(name: str) -> Player:
    """The scripted player called ``name``.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in PLAYERS:
        raise ValueError(
            f"opponent must be one of {', '.join(PLAYERS)} or a callable (observation, info) -> reply, not {name!r}"
        )
    return PLAYERS[name]()
