"""The wrapper that turns any OpenSpiel game into a :class:`llm_gym.TextGame`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Hashable
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame
from llm_gym.games.openspiel.loading import freeze, import_pyspiel, load_fresh_game, load_game, parse_settings, silenced
from llm_gym.games.openspiel.rules import BOARD_SAYS_ALL, innermost, largest_return, notes_of
from llm_gym.games.openspiel.tree import Node, remembered_root

TERMINAL = -4  # pyspiel.PlayerId.TERMINAL, as a plain number: compared after every move
VIEWS = ("auto", "information_state", "observation")


class OpenSpiel(TextGame):
    """Any game of OpenSpiel, ``llmgym/OpenSpiel-v0`` and one id for each well-known game (``llmgym/Hex-v0``).

    ## Observation
    The player's number and OpenSpiel's own text for that player, which never shows what the player cannot know::

        You are player 0 (x).
        . x .
         . o .
          . . .

    In games with hidden information it is the information state (all that the player has seen). In others, and where
    only simultaneous moves are hidden, it is the observation (the board). A game with one of the two texts shows that.

    ## Action
    One of the game's action strings, such as ``b2``; in the default format ``\\boxed{b2}``. The rules explain the
    notation of the named games; elsewhere ``show_legal=True`` lists the actions.

    ## Reward
    The game's returns, unscaled: at the end, or each turn in games with rewards each turn. A single player has
    ``solved`` a game with a return above the middle of its range. Where payoffs do not add up to zero, the highest
    return wins.

    ## Start and end
    As in OpenSpiel. Chance is drawn from the environment's generator. Simultaneous moves are made in turn, without
    seeing what the others chose.

    ## Arguments
    Args:
        game: A name or a name with parameters: ``"leduc_poker"``, ``"hex(board_size=5)"``,
            ``"misere(game=tic_tac_toe())"``, ``"python_liars_poker"``.
        view: ``auto`` as above, or always the ``information_state`` or the ``observation``.
        max_chars: A longer text is cut to its last ``max_chars`` characters, with a note.
        **parameters: The game's parameters; they override those in ``game``.

    Raises:
        ValueError: OpenSpiel cannot load that, or it cannot be played as text; the message says why.
        gymnasium.error.DependencyNotInstalled: OpenSpiel is not installed.

    ## Version history
    v0: first version.
    """

    def __init__(self, game: str, *, view: str = "auto", max_chars: int = 4000, **parameters: Any) -> None:
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
        if type(max_chars) is not int or max_chars < 1:
            raise ValueError(f"max_chars must be a positive number of characters, not {max_chars!r}")
        self._arguments = {"game": game, "view": view, "max_chars": max_chars, **parameters}
        self._settings = parse_settings(game, parameters)
        self.spiel_game = load_game(self._settings)
        self.max_chars = max_chars
        self._describe()
        self._choose_view(view)

    def _describe(self) -> None:
        game, kinds = self.spiel_game, import_pyspiel().GameType
        kind = game.get_type()
        self.num_players = game.num_players()
        self.has_chance = kind.chance_mode != kinds.ChanceMode.DETERMINISTIC
        # Such a game draws chance from a generator of its own, so it is loaded with a new seed for every episode.
        self.own_chance = kind.chance_mode == kinds.ChanceMode.SAMPLED_STOCHASTIC
        self.perfect_information = kind.information == kinds.Information.PERFECT_INFORMATION
        self.dense_reward = kind.reward_model == kinds.RewardModel.REWARDS
        self._zero_sum = kind.utility == kinds.Utility.ZERO_SUM
        self._cooperative = kind.utility == kinds.Utility.IDENTICAL
        self._half_way = (game.min_utility() + game.max_utility()) / 2
        self.reward_range = (game.min_utility(), max(game.max_utility(), largest_return(game)))
        inner = innermost(game)[0].get_type()
        notes = notes_of(game)
        self.rules = notes.rules
        self._shorten = notes.shorten
        board = inner.information == kinds.Information.PERFECT_INFORMATION
        self._view = notes.view or ("observation" if board else "information_state")
        self._position_is_text = inner.short_name in BOARD_SAYS_ALL
        self._headers = [f"You are player {seat}.\n" for seat in range(self.num_players)]
        if notes.sides:
            self._headers = [f"You are player {seat} ({side}).\n" for seat, side in enumerate(notes.sides)]
        if self.num_players == 1:
            self._headers = [""]

    def _choose_view(self, view: str) -> None:
        """Finds at the game's first decision which texts the game has; its first action is the example."""
        pyspiel, kind, name = import_pyspiel(), self.spiel_game.get_type(), self._settings["name"]
        views = [view] if view != "auto" else sorted(VIEWS[1:], key=lambda view: view != self._view)
        # A text that the game does not declare may still exist, so it is tried last.
        views.sort(key=lambda view: not getattr(kind, f"provides_{view}_string"))
        self._root: Node | None = None
        self.reset(np.random.default_rng(0))
        with silenced():
            for view in views:
                try:
                    getattr(self.state, f"{view}_string")(self.current_player)
                except pyspiel.SpielError:
                    continue
                self._view = f"{view}_string"
                break
            else:
                raise ValueError(f"OpenSpiel's {name} has no {' or '.join(views)} text")
            try:
                self.example = next(iter(self._moves()))
            except (pyspiel.SpielError, StopIteration):
                raise ValueError(f"OpenSpiel's {name} does not list its legal actions") from None
        if not self.own_chance:
            self._root = remembered_root(freeze(self._settings), self._view, self.max_chars)

    @property
    def state(self) -> Any:
        """The current ``pyspiel.State``. It may be shared with other games: clone it before changing it."""
        return self.node.state

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.rng = rng
        self._seed: int | None = None
        if self.own_chance:
            self._seed = int(rng.integers(2**31))
            self.spiel_game = load_fresh_game({**self._settings, "rng_seed": self._seed})
        self._play_chance(self._first())

    def _first(self) -> Node:
        return self._root or Node(self.spiel_game.new_initial_state(), None)

    def _play_chance(self, node: Node) -> None:
        """Plays chance from ``node`` until a player is to move or the game is over."""
        while node.player < 0 and node.player != TERMINAL:
            if node.outcomes is None:
                node.outcomes = node.state.chance_outcomes()
            node = node.after(self._draw(node.outcomes))
        self.node = node
        self.current_player: int | None = None if node.player == TERMINAL else node.player

    def _draw(self, outcomes: list[tuple[int, float]]) -> int:
        left = self.rng.random()
        for action, probability in outcomes:
            left -= probability
            if left < 0:
                return action
        return max(outcomes, key=lambda outcome: outcome[1])[0]  # rounding: they add up to slightly less than 1

    def _moves(self) -> dict[str, int]:
        """Name of a legal action -> its number: the first, where several have one name and effect (in backgammon)."""
        node = self.node
        if node.moves is None:
            player, name, shorten = node.player, node.state.action_to_string, self._shorten
            legal = [] if player == TERMINAL else node.state.legal_actions()
            if shorten is None:
                node.moves = {name(player, action): action for action in legal}
            else:
                node.moves = {}
                for action in legal:
                    node.moves.setdefault(shorten(name(player, action)), action)
        return node.moves

    def action_name(self, action: int) -> str:
        """The name, as in :meth:`legal_actions`, of the legal action with OpenSpiel's number ``action``."""
        name: str = self.state.action_to_string(self.current_player, action)
        return name if self._shorten is None else self._shorten(name)

    def observe(self, player: int) -> str:
        text = self.node.texts.get(player)
        if text is None:
            text = getattr(self.state, self._view)(player).strip("\n")
            if len(text) > self.max_chars:
                text = f"[the first {len(text) - self.max_chars} characters are cut]\n{text[-self.max_chars :]}"
            text = self.node.texts[player] = f"{self._headers[player]}{text}"
        return text

    def legal_actions(self) -> list[str]:
        return list(self._moves())

    def apply(self, action: str) -> None:
        move = self._moves().get(action)
        if move is None:
            raise IllegalAction(action)
        self._play_chance(self.node.after(move))

    def returns(self) -> list[float]:
        node = self.node
        if node.returns is None:
            node.returns = [float(earned) for earned in node.state.returns()]
        return node.returns[:]

    def outcome(self, player: int) -> str:
        returns = self.returns()
        if self.num_players == 1:
            return "solved" if returns[0] > self._half_way else "failed"
        if self._cooperative:
            return "solved" if returns[0] > 0 else "failed"
        if self._zero_sum:
            return super().outcome(player)
        if len(set(returns)) == 1:
            return "draw"
        return "win" if returns[player] == max(returns) else "loss"

    def clone(self) -> OpenSpiel:
        if self.own_chance:
            return copy.deepcopy(self)
        twin = OpenSpiel.__new__(OpenSpiel)
        twin.__dict__.update(self.__dict__, node=self.node.copy())
        if self.has_chance:
            twin.rng = copy.deepcopy(self.rng)
        return twin

    def position(self) -> Hashable:
        if self._position_is_text:
            return str(self.spiel_game), str(self.state), self.current_player
        return super().position()

    def serialize(self) -> bytes:
        return pickle.dumps({**self.__getstate__(), "rng": self.rng if self.has_chance else None})

    @staticmethod
    def deserialize(data: bytes) -> OpenSpiel:
        game = OpenSpiel.__new__(OpenSpiel)
        game.__setstate__(pickle.loads(data))  # noqa: S301 - the caller's own bytes
        return game

    def __getstate__(self) -> dict[str, Any]:
        # The generator itself, not its state: an environment and its game share it, and so must their copies.
        return {"arguments": self._arguments, "rng": self.rng, "seed": self._seed, "history": self.state.history()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(**kept["arguments"])  # type: ignore[misc]
        self.rng, self._seed = kept["rng"] or self.rng, kept["seed"]
        if self._seed is not None:
            self.spiel_game = load_fresh_game({**self._settings, "rng_seed": self._seed})
        node = self._first()
        for action in kept["history"]:
            node = node.after(action)
        self._play_chance(node)
