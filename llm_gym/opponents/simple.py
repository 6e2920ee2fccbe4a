"""The interface of scripted players, and the simplest of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from llm_gym.game import ScriptedPolicy, TextGame

OpponentFn = Callable[[str, dict[str, Any]], str]
"""A player as a callable: observation and ``info`` of its seat -> the whole reply."""


class Player(Protocol):
    """A scripted player: it reads the game's state and chooses a legal action for the player to move.

    Its constructor takes the game, which may not have been reset yet, and its settings. It raises ``ValueError`` for a
    game that it cannot play.
    """

    def choose(self, game: TextGame, rng: np.random.Generator) -> str: ...


def initial_state(game: TextGame) -> TextGame:
    """A state in which ``game`` can be inspected: the current one; an arbitrary initial state if it was not reset."""
    if game.current_player is not None:
        return game
    twin = copy.deepcopy(game)
    twin.reset(np.random.default_rng(0))
    return twin


def require_listed_actions(game: TextGame, player: str) -> None:
    """Raises ValueError where legal actions cannot be listed. A single-player game needs no opponent, so it passes."""
    if game.num_players > 1 and initial_state(game).legal_actions() is None:
        raise ValueError(f"{player} needs a game that lists its legal actions; {type(game).__name__} does not")


def _legal(game: TextGame, player: object) -> list[str]:
    legal = game.legal_actions()
    if not legal:
        raise ValueError(
            f"{type(player).__name__} needs a game that lists its legal actions; {type(game).__name__} does not"
        )
    return legal


class Random:
    """Plays each legal action with equal probability."""

    def __init__(self, game: TextGame) -> None:
        require_listed_actions(game, "random")

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        legal = _legal(game, self)
        return legal[int(rng.random() * len(legal))]


class First:
    """Plays the first legal action."""

    def __init__(self, game: TextGame) -> None:
        require_listed_actions(game, "first")

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        return _legal(game, self)[0]


class PolicyPlayer:
    """One of a game's own scripted players (:attr:`TextGame.players`): it reads only what any player reads."""

    def __init__(self, policy: ScriptedPolicy) -> None:
        self.policy = policy

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        player = game.current_player
        if player is None:
            raise ValueError("the game is over: nobody is to move")
        info = {"player": player, "legal_actions": game.legal_actions(), **game.info(player)}
        return self.policy(game.observe(player), info, rng)
