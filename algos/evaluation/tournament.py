"""Tournaments: every player against every other, Elo ratings and a cross table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from algos.config.schema import RolloutSection
from algos.data.tasks import EnvKey, Start
from algos.rollout.playing import Player
from algos.rollout.self_play import SelfPlay

Floats = NDArray[np.float64]
AVERAGE = 1500.0
BOOTSTRAPS = 500


@dataclass
class Pairing:
    """One game between two players.

    Attributes:
        players: The numbers of the players in seat 0 and in seat 1.
        points: Those of seat 0, once the game is over: 1 for a win, 0.5 for a draw.
    """

    start: Start
    players: tuple[int, int]
    points: float = 0.0


def round_robin(games: Sequence[EnvKey], players: int, rounds: int, seed: int = 0) -> list[Pairing]:
    """``rounds`` starts of each game for each pair of players, each played twice, with seats exchanged."""
    return [
        Pairing(Start(game, seed * 10**6 + number), seats)
        for game in games
        for pair in itertools.combinations(range(players), 2)
        for number in range(rounds)
        for seats in (pair, pair[::-1])
    ]


def play_all(pairings: Sequence[Pairing], players: Sequence[Player], rollout: RolloutSection) -> None:
    """Plays every pairing and records its points, ``rollout.episodes`` games side by side.

    Who has earned more wins. A game that a limit ends is decided by what its replies have earned until then.
    """
    games = SelfPlay(rollout)
    for first in tqdm(range(0, len(pairings), rollout.episodes), unit="batch", disable=None):
        part = pairings[first : first + rollout.episodes]
        held = [[players[number] for number in pairing.players] for pairing in part]
        rngs = [np.random.default_rng([pairing.start.seed, *pairing.players]) for pairing in part]
        for pairing, sides in zip(part, games.play([pairing.start for pairing in part], held, rngs), strict=True):
            one, other = sides[0].info.get("returns") or [side.total_reward for side in sides]
            pairing.points = 0.5 + 0.5 * float(np.sign(one - other))


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
