"""Tree search: MCTS where nothing is hidden, IS-MCTS where something is. On OpenSpiel's games, OpenSpiel's own bots."""

from __future__ import annotations

import importlib
import math
import random
from typing import Any

import numpy as np

from llm_gym.game import TextGame
from llm_gym.games.openspiel import OpenSpiel
from llm_gym.games.openspiel.loading import import_pyspiel
from llm_gym.opponents.redraw import can_redraw, redraw
from llm_gym.opponents.simple import require_listed_actions

RESAMPLED = frozenset(
    {"bargaining", "blackjack", "euchre", "gin_rummy", "hearts", "kuhn_poker", "leduc_poker", "oh_hell"}
    | {"universal_poker"}
)
"""Games in which OpenSpiel resamples what a player cannot know. In others it may return the true state instead."""


def _check_strength(**settings: int) -> None:
    for name, value in settings.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


class MCTS:
    """Monte-Carlo tree search by UCT (Kocsis and Szepesvari, 2006) with random rollouts.

    It reads the whole state, so it plays only games of perfect information, and games of chance only from OpenSpiel.

    Args:
        game: The game to be played.
        simulations: Simulations per move.
        rollouts: Random games played out from each new state.
        uct_c: Weight of exploration.
    """

    def __init__(self, game: TextGame, simulations: int = 200, rollouts: int = 1, uct_c: float = 1.414) -> None:
        _check_strength(simulations=simulations, rollouts=rollouts)
        if not game.perfect_information:
            raise ValueError(
                "mcts looks at the whole state, and this game hides part of it: use ismcts, nash or random"
            )
        if game.has_chance and (not isinstance(game, OpenSpiel) or game.own_chance):
            raise ValueError("mcts cannot look ahead in this game, which draws its chance itself: use random")
        require_listed_actions(game, "mcts")
        self.simulations, self.rollouts, self.uct_c = simulations, rollouts, uct_c

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        if isinstance(game, OpenSpiel):
            pyspiel, seed = import_pyspiel(), int(rng.integers(2**31 - 1))
            evaluator = pyspiel.RandomRolloutEvaluator(n_rollouts=self.rollouts, seed=seed)
            bot = pyspiel.MCTSBot(
                game.spiel_game,
                evaluator,
                self.uct_c,
                self.simulations,
                max_memory_mb=1000,
                solve=True,
                seed=seed,
                verbose=False,
            )
            return game.action_name(bot.step(game.state))
        root = _Branch(game)
        for _ in range(self.simulations):
            self._simulate(root, game.clone(), rng)
        return max(root.children, key=lambda action: root.children[action].visits)

    def _simulate(self, root: _Branch, game: TextGame, rng: np.random.Generator) -> None:
        """One simulation: walks to a new state of ``game``, plays it out at random, and backs up the returns."""
        path, movers, branch = [root], [0], root
        while (player := game.current_player) is not None:
            movers.append(player)
            new = bool(branch.untried)
            action = branch.pick(self.uct_c, rng)
            game.apply(action)
            if new:
                branch.children[action] = _Branch(game)
            branch = branch.children[action]
            path.append(branch)
            if new:
                break
        returns = self._play_out(game, rng)
        for branch, mover in zip(path, movers):
            branch.visits += 1
            branch.total += returns[mover]

    def _play_out(self, game: TextGame, rng: np.random.Generator) -> list[float]:
        sums = [0.0] * game.num_players
        for _ in range(self.rollouts):
            run = game.clone()
            while run.current_player is not None:
                legal = run.legal_actions() or []
                run.apply(legal[int(rng.random() * len(legal))])
            sums = [a + b for a, b in zip(sums, run.returns())]
        return [earned / self.rollouts for earned in sums]


class _Branch:
    """A state in the search tree. ``total`` sums the returns, over all visits, of the player who moved here."""

    __slots__ = ("children", "total", "untried", "visits")

    def __init__(self, game: TextGame) -> None:
        self.untried = game.legal_actions() or []
        self.children: dict[str, _Branch] = {}
        self.visits = 0
        self.total = 0.0

    def pick(self, uct_c: float, rng: np.random.Generator) -> str:
        if self.untried:
            return self.untried.pop(int(rng.random() * len(self.untried)))
        width = uct_c * math.sqrt(math.log(self.visits))

        def bound(action: str) -> float:
            child = self.children[action]
            return child.total / child.visits + width / math.sqrt(child.visits)

        return max(self.children, key=bound)


class ISMCTS:
    """Information-set MCTS (Cowling, Powley and Whitehouse, 2012): OpenSpiel's bot, for games with hidden information.

    Before each simulation it resamples what the player cannot know, consistently with what the player has seen, so it
    never uses hidden cards. For those games of OpenSpiel in which this can be resampled.

    Args:
        game: The game to be played.
        simulations: Simulations per move.
        rollouts: Random games played out from each new state.
        uct_c: Weight of exploration, for returns of the order of 1.
    """

    def __init__(self, game: TextGame, simulations: int = 200, rollouts: int = 1, uct_c: float = 2.0) -> None:
        _check_strength(simulations=simulations, rollouts=rollouts)
        if not isinstance(game, OpenSpiel) or game.own_chance:
            raise ValueError(f"ismcts plays OpenSpiel's games only; {type(game).__name__} is another: use random")
        if game.perfect_information:
            raise ValueError("ismcts is for games that hide something: use mcts")
        self.simulations, self.rollouts, self.uct_c = simulations, rollouts, uct_c
        self.redraws = can_redraw(game)
        if not self.redraws and game.spiel_game.get_type().short_name not in RESAMPLED:
            raise ValueError("ismcts cannot resample what this game hides: use random")

    def choose(self, game: TextGame, rng: np.random.Generator) -> str:
        assert isinstance(game, OpenSpiel)
        return game.action_name(self._bot(game, int(rng.integers(2**31 - 1))).step(game.state))

    def _bot(self, game: OpenSpiel, seed: int) -> Any:
        """OpenSpiel's bot in Python; the one in C++ plays differently from process to process with the same seed."""
        ismcts = importlib.import_module("open_spiel.python.algorithms.ismcts")
        by_observation = not game.spiel_game.get_type().provides_information_state_string
        bot = ismcts.ISMCTSBot(
            game.spiel_game,
            _Rollouts(self.rollouts, seed),
            self.uct_c,
            self.simulations,
            random_state=np.random.RandomState(seed),
            final_policy_type=ismcts.ISMCTSFinalPolicyType.MAX_VISIT_COUNT,
            use_observation_string=by_observation,
            allow_inconsistent_action_sets=by_observation,
        )
        draws = random.Random(seed)
        if self.redraws:
            bot.set_resampler(lambda state, player: redraw(state, player, draws))
        else:  # the bot's default resampler draws from a generator that cannot be seeded
            bot.set_resampler(lambda state, player: state.resample_from_infostate(player, draws.random))
        return bot


class _Rollouts:
    """The mean return of random play from a state: OpenSpiel's evaluator, four times as fast."""

    def __init__(self, rollouts: int, seed: int) -> None:
        self.rollouts, self.rng = rollouts, random.Random(seed)

    def evaluate(self, state: Any) -> Any:
        total = np.zeros(state.num_players())
        for _ in range(self.rollouts):
            run = state.clone()
            while not run.is_terminal():
                if run.is_chance_node():
                    actions, chances = zip(*run.chance_outcomes())
                    run.apply_action(self.rng.choices(actions, chances)[0])
                else:
                    run.apply_action(self.rng.choice(run.legal_actions()))
            total += run.returns()
        return total / self.rollouts

    def prior(self, state: Any) -> list[tuple[int, float]]:
        legal = state.legal_actions()
        return [(action, 1 / len(legal)) for action in legal]
