"""Equilibrium play in Kuhn and Leduc poker, from a table that is computed on first use and cached in a file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_gym.game import TextGame
from llm_gym.games.openspiel import OpenSpiel
from llm_gym.games.openspiel.loading import import_pyspiel
from llm_gym.games.openspiel.rules import innermost

ITERATIONS = {"kuhn_poker": 5000, "leduc_poker": 500}
"""Iterations of CFR+, by game: a fraction of a second for Kuhn poker, some seconds for Leduc poker."""


@dataclass(frozen=True)
class NashTable:
    """A policy close to a Nash equilibrium.

    Attributes:
        policy: Information-state string -> OpenSpiel's actions and their probabilities.
        nash_conv: Sum of what each player gains by a best response to the policy; 0 in an equilibrium.
    """

    policy: dict[str, list[tuple[int, float]]]
    nash_conv: float


class Nash:
    """Plays a mixed strategy close to a Nash equilibrium of Kuhn or Leduc poker for two players.

    The table is cached in ``$LLM_GYM_CACHE``, by default ``~/.cache/llm_gym``.

    Args:
        game: The game to be played.
        iterations: Iterations of CFR+ (Tammelin, 2014); 0 for :data:`ITERATIONS`.
    """

    def __init__(self, game: TextGame, iterations: int = 0) -> None:
        if type(iterations) is not int or iterations < 0:
            raise ValueError(f"iterations must be a whole number of at least 0, not {iterations!r}")
        name = innermost(game.spiel_game)[0].get_type().short_name if isinstance(game, OpenSpiel) else ""
        if name not in ITERATIONS or game.num_players != 2:
            raise ValueError(f"nash plays {' and '.join(ITERATIONS)} for two players only: use ismcts or random")
        assert isinstance(game, OpenSpiel)
        self.table = nash_table(str(game.spiel_game), iterations or ITERATIONS[name])

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        assert isinstance(game, OpenSpiel)
        chances = self.table.policy[game.state.information_state_string()]
        left = rng.random()
        for action, probability in chances:
            left -= probability
            if left < 0:
                return game.action_name(action)
        return game.action_name(max(chances, key=lambda chance: chance[1])[0])


@functools.lru_cache(maxsize=16)
def nash_table(game: str, iterations: int) -> NashTable:
    """The table for OpenSpiel's ``game`` after ``iterations`` of CFR+: read from its file, or computed and written."""
    path = cache_folder() / f"nash-{hashlib.sha256(f'{game} {iterations}'.encode()).hexdigest()[:16]}.json"
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = _compute(game, iterations)
        _write(path, kept)
    policy = {seen: [(action, chance) for action, chance in chances] for seen, chances in kept["policy"].items()}
    return NashTable(policy, kept["nash_conv"])


def cache_folder() -> Path:
    """The folder of computed tables."""
    named = os.environ.get("LLM_GYM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llm_gym"


def _compute(name: str, iterations: int) -> dict[str, Any]:
    pyspiel = import_pyspiel()
    game = pyspiel.load_game(name)
    solver = pyspiel.CFRPlusSolver(game)
    for _ in range(iterations):
        solver.evaluate_and_update_policy()
    average = solver.average_policy()
    policy: dict[str, list[tuple[int, float]]] = {}
    states = [game.new_initial_state()]
    while states:
        state = states.pop()
        if state.is_player_node():
            policy.setdefault(state.information_state_string(), list(average.action_probabilities(state).items()))
        states += [state.child(action) for action in (state.legal_actions() if not state.is_terminal() else [])]
    return {"game": name, "iterations": iterations, "nash_conv": pyspiel.nash_conv(game, average), "policy": policy}


def _write(path: Path, kept: dict[str, Any]) -> None:
    """Writes the file atomically, so that no reader sees part of it. A folder that cannot be written is ignored."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            json.dump(kept, file)
        os.replace(file.name, path)
