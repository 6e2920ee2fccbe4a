"""One game being played: replies in, views and rewards out. The Gymnasium and PettingZoo environments both use it."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame
from llm_gym.parsing import FORMATS, extract_action, format_action, match_action

INVALID_LOSES = -1.5
INVALID_GIVES = 0.5
MAX_INVALID_IN_A_ROW = 100
"""Under ``penalty:x``, this many invalid replies in a row end the game as under ``lose``: every episode ends."""
MAX_LEGAL_SHOWN = 100
"""An observation lists at most this many legal actions (``info`` has them all)."""

GameSpec = str | Callable[..., TextGame]
"""A :class:`TextGame` class, a callable that makes one, or ``"module:name"`` of either."""


def make_game(game: GameSpec, /, **settings: Any) -> TextGame:
    """Makes a game from its class, from a callable, or from ``"module:name"``."""
    maker: Any = game
    if isinstance(game, str):
        module, _, name = game.partition(":")
        maker = getattr(importlib.import_module(module), name)
    try:
        inspect.signature(maker).bind(**settings)
    except TypeError as error:
        raise TypeError(f"{getattr(maker, '__name__', maker)} {error}") from None
    made = maker(**settings)
    if not isinstance(made, TextGame):
        raise TypeError(f"game must make a TextGame, but {game!r} made a {type(made).__name__}")
    return made


def parse_on_invalid(setting: str) -> tuple[str, float]:
    """``"retry:3"`` -> ``("retry", 3.0)``. ``lose`` and ``random`` take no number."""
    kind, _, amount = setting.partition(":") if isinstance(setting, str) else ("", "", "")
    if kind in ("lose", "random") and not amount:
        return kind, 0.0
    if kind == "retry" and amount.isascii() and amount.isdigit():
        return kind, float(amount)
    if kind == "penalty":
        try:
            cost = abs(float(amount))
        except ValueError:
            cost = math.inf
        if math.isfinite(cost):
            return kind, cost
    raise ValueError(f"on_invalid must be lose, retry:n, penalty:x or random (retry:2, penalty:0.1), not {setting!r}")


def each_seat(setting: str | Sequence[str], seats: int) -> list[str]:
    """One value per seat. ``setting`` is one value for all seats, or a list of one per seat."""
    return list(setting) if isinstance(setting, (list, tuple)) else [str(setting)] * seats


class Match:
    """A running game: reads replies, applies actions, and keeps what each seat gets by the rules and as penalties.

    Args:
        game: The rules. The other arguments are those of :class:`llm_gym.TextEnv`.
    """

    def __init__(
        self,
        game: TextGame,
        action_format: str | Sequence[str] | None,
        on_invalid: str,
        show_legal: bool,
        random_opening: int = 0,
    ) -> None:
        self.game = game
        self.formats = each_seat(game.action_format if action_format is None else action_format, game.num_players)
        for named in self.formats:
            if named not in FORMATS:
                raise ValueError(f"action_format must be one of {', '.join(FORMATS)}, not {named!r}")
        if len(self.formats) != game.num_players:
            raise ValueError(f"action_format must be one format, or one for each of {game.num_players} seats")
        self.on_invalid, self.amount = parse_on_invalid(on_invalid)
        self.show_legal = show_legal
        if type(random_opening) is not int or random_opening < 0:
            raise ValueError(f"random_opening must be a number of moves, 0 or more, not {random_opening!r}")
        self.random_opening = random_opening
        self.instructions = [  # by seat: how to format a reply
            FORMATS[named].instruction and FORMATS[named].instruction % format_action(example or "...", named)
            for named, example in zip(self.formats, each_seat(game.example, game.num_players))
        ]
        self.systems = ["\n".join(filter(None, (game.rules, how))) for how in self.instructions]
        self.forfeited: int | None = None

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None) -> None:
        self.rng = rng
        self.game.reset(rng, options)
        if (self.random_opening or self.on_invalid == "random") and self.game.legal_actions() is None:
            setting = "random_opening" if self.random_opening else "on_invalid='random'"
            raise ValueError(f"{setting} needs a game that lists its legal actions")
        if self.random_opening:
            self._play_opening(options)
        self.forfeited = None  # whose invalid reply ended the game
        self.penalties = [0.0] * self.game.num_players  # by seat; above 0 after another seat's invalid end
        self.replies = [0] * self.game.num_players  # how many each seat has given
        self.parsed = ["ok"] * self.game.num_players  # how each seat's last reply was read
        self._invalid_in_a_row = 0
        self._popped: list[dict[str, float]] = [{} for _ in range(self.game.num_players)]

    def _play_opening(self, options: dict[str, Any] | None) -> None:
        """Plays 0 to ``random_opening`` random legal moves. A game that they would end starts without them."""
        for _ in range(int(self.rng.integers(self.random_opening + 1))):
            self._play_random_action()
            if self.game.current_player is None:
                self.game.reset(self.rng, options)
                return

    def _play_random_action(self) -> None:
        legal = self.game.legal_actions() or []
        self.game.apply(legal[int(self.rng.random() * len(legal))])

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest return of one player, invalid replies included."""
        low, high = self.game.reward_range
        if self.on_invalid == "random":
            return low, high
        gives = INVALID_GIVES if self.game.num_players > 1 else 0.0
        if self.game.dense_reward:  # rewards before an invalid end are kept
            low, high = low + INVALID_LOSES, high + gives
        low, high = min(low, INVALID_LOSES), max(high, gives)
        return (-math.inf if self.on_invalid == "penalty" else low), high

    @property
    def current_player(self) -> int | None:
        return self.game.current_player if self.forfeited is None else None

    def apply_reply(self, player: int, reply: str) -> str:
        """Plays the whole reply of ``player``; returns how it was read: ``ok``, ``malformed`` or ``illegal``.

        Raises:
            TypeError: ``reply`` is not a string.
        """
        if not isinstance(reply, str):
            raise TypeError(f"an action is the whole reply, a str, not {type(reply).__name__}")
        candidate = extract_action(reply, self.formats[player])
        parse = "malformed"
        if candidate is not None:
            parse = "illegal"
            try:
                self.game.apply(candidate)
                parse = "ok"
            except IllegalAction:
                action = match_action(candidate, self.game.legal_actions())
                if action is not None:
                    self.game.apply(action)
                    parse = "ok"
        self.replies[player] += 1
        self.parsed[player] = parse
        if parse == "ok":
            self._invalid_in_a_row = 0
        else:
            self._punish(player)
        return parse

    def _punish(self, player: int) -> None:
        self._invalid_in_a_row += 1
        if self.on_invalid == "random":
            self._play_random_action()
            self._invalid_in_a_row = 0
            return
        if self.on_invalid == "penalty":
            self.penalties[player] -= self.amount
            if self._invalid_in_a_row < MAX_INVALID_IN_A_ROW:
                return
        if self.on_invalid == "retry" and self._invalid_in_a_row <= self.amount:
            return
        self.forfeited = player
        for seat in range(self.game.num_players):
            self.penalties[seat] += INVALID_LOSES if seat == player else INVALID_GIVES

    def observe(self, player: int) -> str:
        """What ``player`` is shown now: the game's observation, legal actions if ``show_legal``, what failed last."""
        game, parse = self.game, self.parsed[player]
        observation = game.observe(player)
        if self.show_legal and self.current_player == player and (legal := game.legal_actions()):
            cut = "" if len(legal) <= MAX_LEGAL_SHOWN else f" ... ({len(legal)} in all)"
            observation += "\nLegal actions: " + ", ".join(legal[:MAX_LEGAL_SHOWN]) + cut
        if parse != "ok" or self.forfeited is not None:
            observation += "\n" + self._note(player, parse)
        return observation

    def prompt(self, player: int, observation: str | None = None) -> list[dict[str, str]]:
        """The rules and the situation as messages: all that ``player`` needs to reply, without any earlier message.

        Args:
            player: A seat.
            observation: What :meth:`observe` has given for it; None to ask now.
        """
        situation = self.observe(player) if observation is None else observation
        return [{"role": "system", "content": self.systems[player]}, {"role": "user", "content": situation}]

    def view(self, player: int, with_rules: bool = False) -> tuple[str, dict[str, Any]]:
        """The observation and ``info`` of ``player`` now. It changes nothing, so it can be asked for at any time.

        Args:
            player: A seat. Legal actions are listed for the player to move alone.
            with_rules: Whether ``info["messages"]`` begins with the rules, as a player's first view of a game does.
        """
        observation = self.observe(player)
        messages = self.prompt(player, observation)
        to_move = self.current_player
        info = {
            "player": player,
            "legal_actions": self.game.legal_actions() if to_move == player else [],
            "parse": self.parsed[player],
            "messages": messages if with_rules else messages[1:],
            **self.game.info(player),
        }
        if to_move is None:
            info["returns"] = self.returns()
            info["outcome"] = self.outcome(player)
        return observation, info

    def _note(self, player: int, parse: str) -> str:
        if self.forfeited is not None:
            whose = "your" if self.forfeited == player else "another player's"
            return f"The game is over: {whose} reply was invalid."
        if self.on_invalid == "random":
            return f"Your last reply was {parse}; a random action was played instead."
        if parse == "malformed":
            return f"Your last reply was malformed. {self.instructions[player]}"
        return "Your last action was illegal here. Choose another."

    def returns(self) -> list[float]:
        """Each seat's return since reset: by the rules, plus penalties."""
        by_rules = self.game.returns() if self._has_game_reward() else [0.0] * self.game.num_players
        return [a + b for a, b in zip(by_rules, self.penalties)]

    def _has_game_reward(self) -> bool:
        return self.game.dense_reward or self.game.current_player is None

    def outcome(self, player: int) -> str:
        if self.forfeited is None:
            return self.game.outcome(player)
        return "invalid" if self.forfeited == player else "win"

    def pop_reward_terms(self, player: int) -> dict[str, float]:
        """The named parts of the reward of ``player`` since the last call; empty while there is none."""
        terms = dict(self.game.reward_terms(player)) if self._has_game_reward() else {}
        if self.penalties[player]:
            terms["invalid"] = self.penalties[player]
        elif not terms:
            return terms
        before = self._popped[player]
        self._popped[player] = terms
        return {name: terms.get(name, 0.0) - before.get(name, 0.0) for name in {**before, **terms}}
