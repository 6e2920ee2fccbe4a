"""The command ``llm-gym tournament``: every player against every other, Elo ratings and a cross table.

llm-gym tournament --players random minimax runs/demo/checkpoints/step_000200 --games llmgym/TicTacToe-v0
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from algos.data.tasks import EnvKey
from algos.evaluation.players import (
    Answer,
    ModelPlayer,
    answerer,
    text_env,
)
from llm_gym.match import Match

Floats = NDArray[np.float64]
AVERAGE = 1500.0
BOOTSTRAPS = 500


@dataclass
class Pairing:
    """One game between two players.

    Attributes:
        players: Who sits in seat 0 and in seat 1, as numbers.
        points: Of seat 0, once it is over: 1 for a win, 0.5 for a draw.
    """

    game: EnvKey
    seed: int
    players: tuple[int, int]
    points: float = 0.0


@dataclass
class RunningGame:
    """A running game; scripted players answer at once."""

    pairing: Pairing
    match: Match
    answers: list[Answer | None]
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.pairing.seed, *self.pairing.players])
        self.match.reset(np.random.default_rng(self.pairing.seed), None)
        self.play_on()

    def play_on(self) -> None:
        """Lets scripted players move until a model is to reply, or the game is over."""
        while (seat := self.match.current_player) is not None:
            answer = self.answers[seat]
            if answer is None:
                return
            self.match.apply_reply(seat, answer(self.rng))
        first, second = self.match.returns()
        self.pairing.points = 0.5 + 0.5 * float(np.sign(first - second))

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The rules and the situation, as a model to move sees them."""
        seat = self.match.current_player
        assert seat is not None
        return self.match.prompt(seat)


def round_robin(games: Sequence[EnvKey], players: int, rounds: int, seed: int = 0) -> list[Pairing]:
    """``rounds`` starts of each game for each pair of players, each played twice, with seats exchanged."""
    return [
        Pairing(game, seed * 10**6 + number, seats)
        for game in games
        for pair in itertools.combinations(range(players), 2)
        for number in range(rounds)
        for seats in (pair, pair[::-1])
    ]


def play_all(
    pairings: Sequence[Pairing], players: Sequence[ModelPlayer | str], temperature: float, seed: int, parallel: int
) -> None:
    """Plays every pairing and notes its points; models reply to many games at a time."""
    generators = [torch.Generator(_device(player)).manual_seed(seed) for player in players]
    for first in tqdm(range(0, len(pairings), parallel), unit="batch", disable=None):
        boards = [_board(pairing, players) for pairing in pairings[first : first + parallel]]
        while live := [board for board in boards if board.match.current_player is not None]:
            waiting: defaultdict[int, list[RunningGame]] = defaultdict(list)
            for board in live:
                waiting[board.pairing.players[board.match.current_player or 0]].append(board)
            for number, own in sorted(waiting.items()):
                player = players[number]
                assert isinstance(player, ModelPlayer)
                prompts = [player.chat.first(board.prompt) for board in own]
                samples = player.engine.generate(prompts, temperature, generators[number])
                for board, sample in zip(own, samples, strict=True):
                    board.match.apply_reply(board.match.current_player or 0, player.chat.decode(sample.ids))
                    board.play_on()


def _device(player: ModelPlayer | str) -> torch.device | str:
    return "cpu" if isinstance(player, str) else next(player.model.parameters()).device


def _board(pairing: Pairing, players: Sequence[ModelPlayer | str]) -> RunningGame:
    match = text_env(pairing.game).match
    seated = [players[number] for number in pairing.players]
    return RunningGame(
        pairing, match, [answerer(player, match) if isinstance(player, str) else None for player in seated]
    )


def points_of(pairings: Sequence[Pairing], players: int) -> list[list[list[float]]]:
    """``[i][j]``: the points of i in each game against j."""
    points: list[list[list[float]]] = [[[] for _ in range(players)] for _ in range(players)]
    for pairing in pairings:
        first, second = pairing.players
        points[first][second].append(pairing.points)
        points[second][first].append(1 - pairing.points)
    return points


def elo(points: Floats, games: Floats) -> Floats:
    """Ratings by maximum likelihood in the Bradley-Terry model, a draw as half a win, 1500 on average.

    P(i beats j) = 1 / (1 + 10 ** ((R_j - R_i) / 400)) (Bradley and Terry 1952; fitted as in Hunter 2004, section 3).
    Every pair that met is given one draw more, so that who won or lost every game has a rating at all.

    Args:
        points: ``[..., players, players]``, of the row against the column.
        games: ``[players, players]``, how many they played.

    Returns:
        Ratings, ``[..., players]``.
    """
    met = games > 0
    points, games = points + 0.5 * met, games + 1.0 * met
    won = points.sum(-1)
    strength = np.ones_like(won)
    for _ in range(10_000):
        new = won / (games / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        change, strength = float(np.abs(np.log(new / strength)).max()), new
        if change < 1e-6:
            break
    ratings: Floats = AVERAGE + 400 * np.log10(strength)
    return ratings


def ratings_with_intervals(points: list[list[list[float]]]) -> list[dict[str, float]]:
    """Each player's rating and its 95 % bootstrap interval: games drawn again, with replacement, pair by pair."""
    n, rng = len(points), np.random.default_rng(0)
    games = np.array([[len(points[i][j]) for j in range(n)] for i in range(n)], dtype=np.float64)
    sums = np.array([[sum(points[i][j]) for j in range(n)] for i in range(n)], dtype=np.float64)
    again = np.zeros((BOOTSTRAPS, n, n))
    for i, j in itertools.combinations(range(n), 2):
        if own := points[i][j]:
            again[:, i, j] = rng.choice(own, (BOOTSTRAPS, len(own))).sum(1)
            again[:, j, i] = len(own) - again[:, i, j]
    low, high = np.quantile(elo(again, games), [0.025, 0.975], axis=0)
    found = elo(sums, games)
    return [{"elo": float(found[i]), "elo_low": float(low[i]), "elo_high": float(high[i])} for i in range(n)]


def result_of(names: Sequence[str], pairings: Sequence[Pairing]) -> dict[str, Any]:
    """Ratings, best first, and the cross table: score, wins, draws, losses of each player against each other."""
    points = points_of(pairings, len(names))
    rated = ratings_with_intervals(points)
    players = [{"player": name, **rated[number]} for number, name in enumerate(names)]
    cross = {
        name: {other: _record(points[i][j]) for j, other in enumerate(names) if points[i][j]}
        for i, name in enumerate(names)
    }
    return {"players": sorted(players, key=lambda player: -player["elo"]), "cross": cross, "games": len(pairings)}


def _record(points: Sequence[float]) -> dict[str, float]:
    counts = {"wins": points.count(1.0), "draws": points.count(0.5), "losses": points.count(0.0)}
    return {"score": sum(points) / len(points), **counts}
