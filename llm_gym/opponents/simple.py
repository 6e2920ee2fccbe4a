"""What a scripted player is, and those that need no thought."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from llm_gym.game import ScriptedPolicy, TextGame

OpponentFn = Callable[[str, dict[str, Any]], str]
"""A player as a callable: the observation and the ``info`` of its seat in, the whole reply out."""


class Player(Protocol):
    """A scripted player: it looks at the game itself and names a legal action for the player to move.

    Its constructor takes the game, which may not have been reset yet, and its settings; it raises ``ValueError`` for a
    game that it cannot play.
    """

    def choose(self, game: TextGame, rng: np.random.Generator) -> str: ...


def initial_state(game: TextGame) -> TextGame:
    """A state of ``game`` to look at before it is played: as it stands, or where it was not reset, some first state."""
    if game.current_player is not None:
        return game
    twin = copy.deepcopy(game)
    twin.reset(np.random.default_rng(0))
    return twin


def require_listed_actions(game: TextGame, player: str) -> None:
    """Raises ValueError where legal actions cannot be listed (nothing is asked of a game without opponents)."""
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
    """One of a game's own scripted players (:attr:`TextGame.players`): it is shown what a player reads, no more."""

    def __init__(self, policy: ScriptedPolicy) -> None:
        self.policy = policy

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        player = game.current_player
        if player is None:
            raise ValueError("the game is over: nobody is to move")
        info = {"player": player, "legal_actions": game.legal_actions(), **game.info(player)}
        return self.policy(game.observe(player), info, rng)
