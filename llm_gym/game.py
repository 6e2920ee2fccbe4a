"""The one abstraction of the suite: the rules of one game, over text."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np


class IllegalAction(ValueError):
    """Raised by :meth:`TextGame.apply` for an action that the rules do not allow; the game is then unchanged."""


ScriptedPolicy = Callable[[str, dict[str, Any], np.random.Generator], str]
"""A scripted player of one game: observation, ``info`` and a generator -> an action, not yet in a reply's format."""


class TextGame:
    """The rules of one game. Subclass it, and every view (Gymnasium, PettingZoo, HTTP) follows.

    A subclass defines :meth:`reset`, :meth:`observe`, :meth:`apply`, :meth:`returns`, and for board and card games
    :meth:`legal_actions`. All randomness comes from the generator that ``reset`` receives.

    Attributes:
        num_players: Number of seats, numbered from 0.
        rules: The system text, said once at reset. It does not say how a reply is formatted: the environment adds that.
        current_player: Whose turn it is; None once the game is over.
        action_format: The default reply format, a key of :data:`llm_gym.parsing.FORMATS`; one a seat where they differ.
        example: An action to show in the format's instruction, such as ``"4"``; one a seat where they differ.
        reward_range: Smallest and largest return of one player in a game played by the rules.
        dense_reward: True if :meth:`returns` can change before the end; otherwise it is read at the end only.
        perfect_information: False if a player cannot see the whole state (hidden cards, simultaneous moves).
        has_chance: True if :meth:`apply` can draw from the generator.
        players: Scripted players of this game alone, by name. They read only what a player reads.
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
        """The situation ``player`` faces now. With the rules it can stand alone; it never shows others' secrets."""
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
        """What each player has earned since reset, one number a seat."""
        raise NotImplementedError

    def reward_terms(self, player: int) -> dict[str, float]:
        """The named parts of ``returns()[player]``; they add up to it."""
        return {"game": self.returns()[player]}

    def outcome(self, player: int) -> str:
        """How the finished game ended for ``player``: win, loss or draw; solved or failed for a single player."""
        earned = self.returns()[player]
        if self.num_players == 1:
            return "solved" if earned > 0 else "failed"
        return "win" if earned > 0 else "loss" if earned < 0 else "draw"

    def info(self, player: int) -> dict[str, Any]:
        """More that ``player`` may know, merged into the environment's ``info``."""
        return {}

    def clone(self) -> TextGame:
        """An independent copy, as tree search needs."""
        return copy.deepcopy(self)

    def position(self) -> Hashable:
        """A key of all that the rest of the game depends on: exact search visits equal positions once."""
        return self.serialize()

    def serialize(self) -> bytes:
        """The whole state as bytes; :meth:`deserialize` gives it back. Equal states of one game give equal bytes."""
        return pickle.dumps(self)

    @staticmethod
    def deserialize(data: bytes) -> TextGame:
        """The game that :meth:`serialize` wrote."""
        return pickle.loads(data)  # noqa: S301 - the caller's own bytes
