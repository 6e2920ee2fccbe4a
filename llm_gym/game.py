"""The abstraction that every environment is built on: the rules of one game, over text."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np


class IllegalAction(ValueError):
    """Raised by :meth:`TextGame.apply` for an action that the rules do not allow. The game is then unchanged."""


ScriptedPolicy = Callable[[str, dict[str, Any], np.random.Generator], str]
"""A scripted player of one game: observation, ``info`` and a generator -> an action, without a reply format."""


class TextGame:
    """The rules of one game. A subclass can be played through every interface (Gymnasium, PettingZoo, HTTP).

    A subclass defines :meth:`reset`, :meth:`observe`, :meth:`apply`, :meth:`returns`, and for board and card games
    :meth:`legal_actions`. All randomness comes from the generator that ``reset`` receives.

    Attributes:
        num_players: Number of seats, numbered from 0.
        rules: The system message, sent once at reset. The environment adds how to format a reply.
        current_player: Whose turn it is; None once the game is over.
        action_format: The default reply format, a key of :data:`llm_gym.parsing.FORMATS`; a list has one per seat.
        example: An action to show in the format's instruction, such as ``"4"``; a list has one per seat.
        reward_range: Smallest and largest return of one player in a game played by the rules.
        dense_reward: True if :meth:`returns` can change before the end; otherwise it is read at the end only.
        perfect_information: False if a player cannot see the whole state (hidden cards, simultaneous moves).
        has_chance: True if :meth:`apply` can draw from the generator.
        players: Scripted players for this game only, by name. They read only what a player reads.
    """

    num_players: int = 1
    rules: str = ""
    current_player: int | None = None
    action_format: str | Sequence[str] = "boxed"
    example: str | Sequence[str] = ""
    reward_range: tuple[float, float] = (-1.0, 1.0)
    dense_reward: bool = False
    perfect_information: bool = True
    has_chance: bool = False
    players: ClassVar[dict[str, ScriptedPolicy]] = {}

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        """Starts a new game. ``rng`` is the only source of randomness; keep it if later turns need chance."""
        raise NotImplementedError

    def observe(self, player: int) -> str:
        """The situation that ``player`` faces now. With the rules it is complete; it never shows others' secrets."""
        raise NotImplementedError

    def legal_actions(self) -> list[str] | None:
        """All legal actions of the current player, or None where they cannot be listed (free text)."""
        return None

    def apply(self, action: str) -> None:
        """Plays ``action`` for the current player.

        Raises:
            IllegalAction: The rules do not allow it. The game is unchanged.
        """
        raise NotImplementedError

    def returns(self) -> list[float]:
        """The return of each player since reset, one number per seat."""
        raise NotImplementedError

    def reward_terms(self, player: int) -> dict[str, float]:
        """The named parts of ``returns()[player]``; they add up to it."""
        return {"game": self.returns()[player]}

    def outcome(self, player: int) -> str:
        """How the game ended for ``player``: win, loss or draw; solved or failed in a single-player game."""
        own = self.returns()[player]
        if self.num_players == 1:
            return "solved" if own > 0 else "failed"
        return "win" if own > 0 else "loss" if own < 0 else "draw"

    def info(self, player: int) -> dict[str, Any]:
        """Additional entries for the environment's ``info``; nothing that ``player`` must not know."""
        return {}

    def clone(self) -> TextGame:
        """An independent copy, as tree search needs."""
        return copy.deepcopy(self)

    def position(self) -> Hashable:
        """A key for everything that the rest of the game depends on: exact search visits equal positions once."""
        return self.serialize()

    def serialize(self) -> bytes:
        """The whole state as bytes; :meth:`deserialize` gives it back. Equal states of one game give equal bytes."""
        return pickle.dumps(self)

    @staticmethod
    def deserialize(data: bytes) -> TextGame:
        """The game that :meth:`serialize` wrote."""
        return pickle.loads(data)  # noqa: S301 - the caller's own bytes
