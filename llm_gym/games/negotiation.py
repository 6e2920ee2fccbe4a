"""Negotiation over wood and gold, as in SPIRAL."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame

GOODS = ("wood", "gold")
START = 10
VALUES = ((5, 15), (15, 5))
_OFFER = re.compile("offer ([1-9][0-9]?) (wood|gold) for ([1-9][0-9]?) (wood|gold)")
_WORTH = re.compile("To you 1 wood is worth ([0-9]+), 1 gold ([0-9]+).")
_HELD = re.compile("hold ([0-9]+) wood and ([0-9]+) gold")
_OFFERED = re.compile("^They offer ([0-9]+) (wood|gold) for ([0-9]+) (?:wood|gold) of yours", re.MULTILINE)

Trade = tuple[int, int, int]
"""The proposer's view of an offer: amount given, which good (an index of GOODS), amount asked of the other good."""


@lru_cache(maxsize=1024)
def _offers(wood: int, gold: int, their_wood: int, their_gold: int) -> list[str]:
    return [
        f"offer {given} {good} for {asked} {other}"
        for good, most_given, other, most_asked in (
            ("wood", wood, "gold", their_gold),
            ("gold", gold, "wood", their_wood),
        )
        for given in range(1, most_given + 1)
        for asked in range(1, most_asked + 1)
    ]


def greedy(observation: str, info: dict[str, Any], rng: np.random.Generator | None = None) -> str:
    """Accepts any gain; offers the good it values less for more of the other, and asks less from turn to turn."""
    worth = [int(value) for value in _WORTH.findall(observation)[0]]
    mine, theirs = [[int(held) for held in both] for both in _HELD.findall(observation)]
    offered = _OFFERED.search(observation)
    if offered:
        good = GOODS.index(offered[2])
        if int(offered[1]) * worth[good] > int(offered[3]) * worth[1 - good]:
            return "accept"
    turn = int(observation.split("Turn ")[1].split()[0])
    cheap = worth.index(min(worth))
    given, asked = min(5, mine[cheap]), min(max(10 - turn, 6), theirs[1 - cheap])
    if 0 < given < asked:
        return f"offer {given} {GOODS[cheap]} for {asked} {GOODS[1 - cheap]}"
    return "deny" if offered else "pass"


class Negotiation(TextGame):
    """Negotiation, ``llmgym/Negotiation-v0``: two players trade wood and gold, which they value differently.

    ## Observation
    What both hold, what the goods are worth to the player (not to the other player), the offers so far and the one on
    the table::

        You are player 1. Turn 2 of 10.
        To you 1 wood is worth 15, 1 gold 5. Your goods have gained 0 in value.
        You hold 10 wood and 10 gold. They hold 10 wood and 10 gold.
        So far: they offer 5 wood for 9 gold.
        They offer 5 wood for 9 gold of yours: accept or deny it, or make another offer.

    ## Action
    ``offer 2 wood for 3 gold`` (give 2 wood, get 3 gold; as much as both hold), ``accept`` or ``deny`` while an offer
    is on the table, ``pass`` while there is none. Any other action takes the offer off the table.

    ## Reward
    At the end +1 to the player whose goods gained more value, each by their own values, and -1 to the other; 0 to both
    if they gained the same. ``info["gain"]`` is the player's own gain; at the end ``info["gains"]`` has both.

    ## Start and end
    Both hold 10 wood and 10 gold, and seat 0 begins. The game ends after ``max_turns`` actions in all.

    ## Arguments
    ``max_turns``: 10 by default. ``values``: ``opposite`` (to seat 0 a wood is worth 5 and a gold 15, to seat 1 the
    other way round) or ``random`` (each seat has either pair with equal probability).

    ## Version history
    v0: first version.
    """

    num_players = 2
    example = "offer 2 wood for 3 gold"
    perfect_information = False
    players = {"greedy": greedy}

    def __init__(self, max_turns: int = 10, values: str = "opposite") -> None:
        if type(max_turns) is not int or max_turns < 1:
            raise ValueError(f"max_turns must be a whole number of at least 1, not {max_turns!r}")
        if values not in ("opposite", "random"):
            raise ValueError(f"values must be opposite or random, not {values!r}")
        self.max_turns, self.values_setting = max_turns, values
        self.rules = (
            "Negotiation: two players trade wood and gold. What these are worth to a player, only that player knows. "
            "In turn accept or deny the offer made to you, make one, or pass. 'offer 2 wood for 3 gold' gives 2 wood "
            f"and gets 3 gold. After {max_turns} turns the player wins whose goods gained more by that player's values."
        )

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.values: tuple[tuple[int, int], ...] = VALUES
        if self.values_setting == "random":
            self.values = (VALUES[rng.random() < 0.5], VALUES[rng.random() < 0.5])
        self.holdings = [[START, START], [START, START]]
        self.table: Trade | None = None
        self.history: list[str] = []
        self.current_player: int | None = 0

    def gain(self, player: int) -> int:
        """How much value the player's goods have gained, by the player's own values."""
        return sum(value * (held - START) for value, held in zip(self.values[player], self.holdings[player]))

    def observe(self, player: int) -> str:
        wood, gold = self.values[player]
        mine, theirs = self.holdings[player], self.holdings[1 - player]
        turn = len(self.history) + (self.current_player is not None)
        lines = [
            f"You are player {player}. Turn {turn} of {self.max_turns}.",
            f"To you 1 wood is worth {wood}, 1 gold {gold}. Your goods have gained {self.gain(player)} in value.",
            f"You hold {mine[0]} wood and {mine[1]} gold. They hold {theirs[0]} wood and {theirs[1]} gold.",
        ]
        if self.history:
            said = (f"{'you' if i % 2 == player else 'they'} {action}" for i, action in enumerate(self.history))
            lines.append(f"So far: {', '.join(said)}.")
        if self.table and player == self.current_player:
            given, good, asked = self.table
            lines.append(
                f"They offer {given} {GOODS[good]} for {asked} {GOODS[1 - good]} of yours: "
                "accept or deny it, or make another offer."
            )
        return "\n".join(lines)

    def legal_actions(self) -> list[str]:
        player = self.current_player
        if player is None:
            return []
        answers = ("accept", "deny") if self.table else ("pass",)
        return [*answers, *_offers(*self.holdings[player], *self.holdings[1 - player])]

    def apply(self, action: str) -> None:
        player = self.current_player
        if player is None:
            raise IllegalAction(action)
        trade = self._read_offer(player, action)
        if trade is None and action not in (("accept", "deny") if self.table else ("pass",)):
            raise IllegalAction(action)
        if action == "accept" and self.table:
            given, good, asked = self.table
            for seat, sign in ((1 - player, 1), (player, -1)):
                self.holdings[seat][good] -= sign * given
                self.holdings[seat][1 - good] += sign * asked
        self.table = trade
        self.history.append(action)
        self.current_player = 1 - player if len(self.history) < self.max_turns else None

    def _read_offer(self, player: int, action: str) -> Trade | None:
        """The trade that ``action`` offers; None if it is no offer, or one that the players cannot afford."""
        offer = _OFFER.fullmatch(action)
        if offer is None or offer[2] == offer[4]:
            return None
        given, good, asked = int(offer[1]), GOODS.index(offer[2]), int(offer[3])
        affordable = given <= self.holdings[player][good] and asked <= self.holdings[1 - player][1 - good]
        return (given, good, asked) if affordable else None

    def returns(self) -> list[float]:
        if self.current_player is not None or self.gain(0) == self.gain(1):
            return [0.0, 0.0]
        return [1.0, -1.0] if self.gain(0) > self.gain(1) else [-1.0, 1.0]

    def info(self, player: int) -> dict[str, Any]:
        gained: dict[str, Any] = {"gain": self.gain(player)}
        if self.current_player is None:
            gained["gains"] = [self.gain(0), self.gain(1)]
        return gained

    def serialize(self) -> bytes:
        settings = self.max_turns, self.values_setting
        return json.dumps([*settings, self.values, self.holdings, self.table, self.history]).encode()

    @staticmethod
    def deserialize(data: bytes) -> Negotiation:
        max_turns, setting, values, holdings, table, history = json.loads(data)
        game = Negotiation(max_turns, setting)
        game.values = tuple((wood, gold) for wood, gold in values)
        game.holdings, game.history = holdings, history
        game.table = tuple(table) if table else None
        game.current_player = len(history) % 2 if len(history) < max_turns else None
        return game
