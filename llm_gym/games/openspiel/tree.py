"""The states of a game and what OpenSpiel says of them, remembered where they will be met again."""

from __future__ import annotations

import functools
from typing import Any

from llm_gym.games.openspiel.loading import load_game, thaw

MAX_LENGTH = 32
"""Only games this short are remembered: longer ones hardly meet a state twice."""
MAX_NODES = 5000
"""So many states of one game are remembered in a process."""


class Node:
    """A state, and what was asked of it so far.

    A remembered node is shared by every game that passes through it, and never changes. Any other belongs to one game,
    which moves its state on in place.

    Attributes:
        state: The ``pyspiel.State``.
        player: Who is to move, as OpenSpiel numbers it: below 0 for chance and for the end.
        room: How many more nodes may be remembered, in a list that all remembered nodes share; None if this one is not.
        outcomes: Chance's actions and their probabilities, once asked for.
        moves: Action numbers of the legal actions by name, once asked for.
        texts: What each player sees, once asked for.
        returns: Each player's return so far, once asked for.
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
        """The node that ``action`` leads to. This one must not be used again, unless it is remembered."""
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
        """A node for another game: itself, if it is remembered."""
        return self if self.room is not None else Node(self.state.clone(), None)


@functools.lru_cache(maxsize=256)
def remembered_root(settings: Any, view: str, max_chars: int) -> Node | None:
    """The first node of the game with these (frozen) settings, as shown in this way; None for games not remembered."""
    game = load_game(thaw(settings))
    if game.max_game_length() > MAX_LENGTH or "python_" in str(game):  # copying a state in Python takes longer
        return None
    return Node(game.new_initial_state(), [MAX_NODES])
