"""Perfect play, for games small enough to be solved."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from llm_gym.game import TextGame
from llm_gym.opponents.simple import Random, initial_state

MAX_POSITIONS = 50_000
"""Games with more positions are refused."""
MAX_MOVES = 200
"""Games with longer lines of play are refused: the recursion would exhaust Python's stack."""

# The exact value depends on the position alone, so all minimax players in the process share this table.
_VALUES: dict[tuple[type[TextGame], Hashable], float] = {}


def minimax_value(game: TextGame) -> float:
    """The value of ``game`` to player 0 under perfect play, for two-player zero-sum games of perfect information.

    Visits each position that can be reached from here once, and remembers its value.

    Raises:
        ValueError: There are more than :data:`MAX_POSITIONS` positions, or lines of more than :data:`MAX_MOVES` moves.
    """
    return _solve(game, [MAX_POSITIONS], MAX_MOVES)


def _solve(game: TextGame, positions_left: list[int], moves_left: int) -> float:
    if game.current_player is None:
        return game.returns()[0]
    key = (type(game), game.position())
    value = _VALUES.get(key)
    if value is None:
        positions_left[0] -= 1
        if positions_left[0] < 0 or moves_left == 0:
            raise ValueError(
                f"minimax cannot solve this {type(game).__name__}: it has more than {MAX_POSITIONS:,} positions or "
                f"{MAX_MOVES} moves; use mcts"
            )
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
    """Plays perfectly and picks at random among equally good actions. The constructor solves the game.

    Args:
        game: The game to be played.
        epsilon: Probability with which a move is a random legal one: between perfect play (0) and random play (1).
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
