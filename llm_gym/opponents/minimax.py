"""Perfect play, for games small enough to be solved."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from llm_gym.game import TextGame
from llm_gym.opponents.simple import Random, initial_state

MAX_POSITIONS = 50_000
"""A game with more positions is refused."""
MAX_MOVES = 200
"""So is a game with more moves: its depth would exhaust Python's stack."""

# Exact values are pure functions of a position, so every minimax player of the process shares them.
_VALUES: dict[tuple[type[TextGame], Hashable], float] = {}


class _TooLarge(Exception):
    pass


def minimax_value(game: TextGame) -> float:
    """The value of ``game`` to player 0 when both play perfectly.

    For two players, zero sum, no chance, nothing hidden. Every position reachable from here is visited once and kept.

    Raises:
        ValueError: More than :data:`MAX_POSITIONS` positions or :data:`MAX_MOVES` moves would have to be looked at.
    """
    try:
        return _solve(game, [MAX_POSITIONS], MAX_MOVES)
    except _TooLarge:
        raise ValueError(
            f"minimax cannot solve this {type(game).__name__}: it has more than {MAX_POSITIONS:,} positions or "
            f"{MAX_MOVES} moves; use mcts"
        ) from None


def _solve(game: TextGame, positions_left: list[int], moves_left: int) -> float:
    if game.current_player is None:
        return game.returns()[0]
    key = (type(game), game.position())
    value = _VALUES.get(key)
    if value is None:
        positions_left[0] -= 1
        if positions_left[0] < 0 or moves_left == 0:
            raise _TooLarge
        best = max if game.current_player == 0 else min
        value = best(_solve(child, positions_left, moves_left - 1) for _, child in _children(game))
        _VALUES[key] = value
    return value


def _children(game: TextGame) -> list[tuple[str, TextGame]]:
    children = []
    for action in game.legal_actions() or []:
        child = game.clone()
        child.apply(action)
        children.append((action, child))
    return children


class Minimax:
    """Plays perfectly; among equally good actions it picks at random. It solves the game when it is made.

    Args:
        epsilon: Each of its moves is a random legal one with this probability: an opponent between perfect and random.
    """

    def __init__(self, game: TextGame, epsilon: float = 0.0) -> None:
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon <= 1:
            raise ValueError(f"minimax: epsilon must be a probability, from 0 to 1, not {epsilon!r}")
        if game.num_players != 2 or game.has_chance or not game.perfect_information:
            raise ValueError(f"minimax needs two players, no chance and nothing hidden; {type(game).__name__} differs")
        if initial_state(game).legal_actions() is None:
            raise ValueError(f"minimax needs a game that lists its legal actions; {type(game).__name__} does not")
        minimax_value(initial_state(game))
        self.epsilon, self._at_random = epsilon, Random(game)

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        if self.epsilon and rng.random() < self.epsilon:
            return self._at_random.choose(game, rng)
        sign = 1.0 if game.current_player == 0 else -1.0
        scored = [(sign * minimax_value(child), action) for action, child in _children(game)]
        top = max(value for value, _ in scored)
        best = [action for value, action in scored if value == top]
        return best[int(rng.random() * len(best))]
