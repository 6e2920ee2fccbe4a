"""The states of a game with what OpenSpiel says of them, remembered in games whose states recur."""

from __future__ import annotations

import functools
from typing import Any

from llm_gym.games.openspiel.loading import load_game, thaw

MAX_LENGTH = 32
"""States are remembered in games up to this length; in longer ones a state hardly ever recurs."""
MAX_NODES = 5000
"""At most this many states of one game are remembered in a process."""


class Node:
    """A state, and what OpenSpiel was asked about it so far.

    A remembered node is shared by all games that pass through it, and its state never changes. Any other node belongs
    to one game, which advances its state in place.

    Attributes:
        state: The ``pyspiel.State``.
        player: The player to move, as OpenSpiel numbers it: below 0 for chance and for the end.
        room: One item, shared by all remembered nodes: how many more may be remembered. None if this one is not.
        outcomes: Chance's actions and their probabilities, once computed.
        moves: Name of a legal action -> its number, once computed.
        texts: Player -> observation, once computed.
        returns: Each player's return so far, once computed.
    """

    __slots__ = ("children", "moves", "outcomes", "player", "returns", "room", "state", "texts")

    def __init__(self, state: Any, room: list[int] | None) -> None:
        self.state = state
        self.player: int = state.current_player()
        self.room = room
        self.children: dict[int, Node] = {}
        self.outcomes: list[tuple[int, float]] | None = None
        self.moves: dict[str, int] | None = None
        self.texts: dict[int, str] = {}
        self.returns: list[float] | None = None

    def after(self, action: int) -> Node:
        """The node that ``action`` leads to. A node that is not remembered must not be used afterwards."""
        if self.room is None:
            self.state.apply_action(action)
            return Node(self.state, None)
        child = self.children.get(action)
        if child is None:
            state = self.state.child(action)
            if self.room[0] <= 0:
                return Node(state, None)
            self.room[0] -= 1
            child = self.children[action] = Node(state, self.room)
        return child

    def copy(self) -> Node:
        """A node for another game; a remembered node is shared."""
        return self if self.room is not None else Node(self.state.clone(), None)


@functools.lru_cache(maxsize=256)
def remembered_root(settings: Any, view: str, max_chars: int) -> Node | None:
    """The first node of a game, by its frozen settings and view; None for games that are not remembered."""
    game = load_game(thaw(settings))
    if game.max_game_length() > MAX_LENGTH or "python_" in str(game):  # copying a state in Python takes longer
        return None
    return Node(game.new_initial_state(), [MAX_NODES])
