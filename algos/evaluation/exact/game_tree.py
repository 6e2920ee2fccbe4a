"""Games small enough to walk: every decision in them, and what a policy is worth there.

Where nothing is hidden and nothing left to chance, values come from backward induction over positions. Other games
of OpenSpiel are handed, with the policy as a table of information states, to OpenSpiel's own algorithms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from llm_gym.game import TextGame
from llm_gym.games.openspiel import OpenSpiel
from llm_gym.games.openspiel.tree import Node
from llm_gym.match import Match

MAX_DECISIONS = 20_000


@dataclass(frozen=True)
class State:
    """A decision: who is to move, what that player is shown, and what may be played."""

    player: int
    observation: str
    legal: tuple[str, ...]


MoveProbabilities = Callable[[Sequence[State]], Sequence[Mapping[str, float]]]
"""Decisions -> for each the probability of every legal action. They may add up to less than 1: the rest is the chance
of a reply that is no legal action. Values are those of the policy given that its replies are legal."""


def match_of(game: str | TextGame | Match) -> Match:
    """A match to look at ``game`` through; a name is a registered id with its usual settings.

    Raises:
        ValueError: The game cannot be walked, whatever its size.
    """
    if isinstance(game, str):
        env: Any = gymnasium.make(game).unwrapped
        game = getattr(env, "match", env)
    match = Match(game, None, "lose", False) if isinstance(game, TextGame) else game
    if not isinstance(match, Match):
        raise ValueError(f"exact evaluation needs a game of this package, not {type(match).__name__}")
    match.reset(np.random.default_rng(0), None)
    rules = match.game
    name = getattr(rules, "spiel_game", None) or type(rules).__name__
    if rules.num_players != 2:
        raise ValueError(f"exact evaluation is of games for two; {name} is for {rules.num_players}")
    if match.game.legal_actions() is None:
        raise ValueError(f"exact evaluation needs a game that lists its legal actions; {name} does not")
    spiel = isinstance(rules, OpenSpiel) and not rules.own_chance
    if (rules.has_chance or not rules.perfect_information) and not spiel:
        raise ValueError(f"exact evaluation cannot walk {name}: its chance and its secrets cannot be listed")
    return match


def walk(game: str | TextGame | Match, limit: int = MAX_DECISIONS) -> Tree:
    """The whole game, to be given to :func:`exact` in its place: worth it where it is asked several times.

    Args:
        limit: A game with more positions (where something is hidden: more histories) to move in is refused.

    Raises:
        ValueError: The game cannot be walked; more than ``limit`` decisions are one reason.
    """
    match = match_of(game)
    simple = match.game.perfect_information and not match.game.has_chance
    return (Positions if simple else Histories)(match, limit)


Key = tuple[int, str]
"""A player and what it is shown: decisions that agree in both are one."""


@dataclass
class PolicyTable:
    """The policy's answers so far, so that no decision is asked about twice."""

    policy: MoveProbabilities
    moves: dict[Key, dict[str, float]] = field(default_factory=dict)
    legal: dict[Key, float] = field(default_factory=dict)

    def ask(self, states: Sequence[State]) -> None:
        new = {(state.player, state.observation): state for state in states}
        new = {key: state for key, state in new.items() if key not in self.moves}
        if not new:
            return
        for (key, state), answer in zip(new.items(), self.policy(list(new.values())), strict=True):
            total = sum(answer.values())
            if not set(answer) <= set(state.legal) or not 0 <= total <= 1 + 1e-6:
                raise ValueError(f"a policy must give probabilities of legal actions, not {dict(answer)}")
            even = dict.fromkeys(state.legal, 1 / len(state.legal))  # of a policy to which no legal action occurs
            self.moves[key] = {move: chance / total for move, chance in answer.items()} if total else even
            self.legal[key] = min(total, 1.0)


def _too_large(match: Match, limit: int) -> ValueError:
    name = getattr(match.game, "spiel_game", None) or type(match.game).__name__
    return ValueError(f"exact evaluation walks at most {limit:,} decisions, and {name} has more of them")


def _seen(match: Match, game: TextGame) -> State:
    """The decision at ``game``, shown as ``match`` shows it."""
    player = game.current_player
    assert player is not None
    held, match.game = match.game, game
    observation = match.view(player)[0]
    match.game = held
    return State(player, observation, tuple(game.legal_actions() or ()))


Pair = tuple[float, float]


@dataclass(eq=False)
class Position:
    """A position: its decision, or at the end what it pays, and where each move leads."""

    state: State | None
    returns: Pair = (0.0, 0.0)
    children: dict[str, Position] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        assert self.state is not None
        return self.state.player, self.state.observation


Rule = Callable[[Position, dict[str, Pair]], Pair]
"""A position and what its moves are worth to both -> what it is worth to both."""


class Positions:
    """Every position of a game without chance and secrets; values by backward induction, move by move.

    Attributes:
        decisions: Each decision once.
    """

    def __init__(self, match: Match, limit: int) -> None:
        self.match = match
        self.decisions: set[Key] = set()
        self.root = Position(_seen(match, match.game))
        layer, count = [(match.game, self.root)], 0
        while layer:
            decisions = [node.key for _, node in layer if node.state]
            self.decisions.update(decisions)
            count += len(decisions)
            if count > limit:
                raise _too_large(match, limit)
            after: dict[Hashable, tuple[TextGame, Position]] = {}
            for game, node in layer:
                for move in node.state.legal if node.state else ():
                    child = game.clone()
                    child.apply(move)
                    where = child.position()
                    if where not in after:
                        after[where] = child, self._position(child)
                    node.children[move] = after[where][1]
            layer = list(after.values())

    def _position(self, game: TextGame) -> Position:
        if game.current_player is not None:
            return Position(_seen(self.match, game))
        first, second = game.returns()
        return Position(None, (first, second))

    def self_play(self, table: PolicyTable) -> tuple[list[float], dict[Key, float]]:
        """What each seat earns when the policy plays both, and how often a game meets each decision."""
        reached: defaultdict[Key, float] = defaultdict(float)
        chances = defaultdict(float, {self.root: 1.0})
        layers = self._layers(table, (0, 1))
        for node in (node for layer in layers for node in layer if node.state):
            reached[node.key] += chances[node]
            for move, chance in table.moves[node.key].items():
                chances[node.children[move]] += chances[node] * chance
        return list(self._value(layers, lambda node, values: _mean(table.moves[node.key], values))), reached

    def against_uniform(self, table: PolicyTable, seat: int) -> float:
        """What the policy earns in ``seat`` against uniform play."""

        def rule(node: Position, values: dict[str, Pair]) -> Pair:
            own = node.key[0] == seat
            return _mean(table.moves[node.key] if own else dict.fromkeys(values, 1 / len(values)), values)

        return self._value(self._layers(table, (seat,)), rule)[seat]

    def best_response(self, table: PolicyTable, seat: int) -> Pair:
        """What both earn when the policy is in ``seat`` and the other replies as well as can be."""

        def rule(node: Position, values: dict[str, Pair]) -> Pair:
            if node.key[0] == seat:
                return _mean(table.moves[node.key], values)
            return max(values.values(), key=lambda value: (value[1 - seat], -value[seat]))

        return self._value(self._layers(table, (seat,)), rule)

    def _layers(self, table: PolicyTable, seats: tuple[int, ...]) -> list[list[Position]]:
        """The positions after 0, 1, 2, ... moves: of ``seats`` those the policy makes, of others every move."""
        layers = [[self.root]]
        while layers[-1]:
            table.ask([node.state for node in layers[-1] if node.state and node.state.player in seats])
            after: dict[Position, None] = {}
            for node in layers[-1]:
                moved = node.state is not None and node.state.player in seats
                moves = [move for move, chance in table.moves[node.key].items() if chance] if moved else node.children
                after.update((node.children[move], None) for move in moves)
            layers.append(list(after))
        return layers

    def _value(self, layers: list[list[Position]], rule: Rule) -> Pair:
        worth: dict[Position, Pair] = {}
        for node in (node for layer in reversed(layers) for node in layer):
            known = {move: worth[child] for move, child in node.children.items() if child in worth}
            worth[node] = rule(node, known) if node.state else node.returns
        return worth[self.root]


def _mean(moves: Mapping[str, float], values: Mapping[str, Pair]) -> Pair:
    pairs = [(chance, values[move]) for move, chance in moves.items() if chance]
    return sum(chance * first for chance, (first, _) in pairs), sum(chance * second for chance, (_, second) in pairs)


class Histories:
    """A game of OpenSpiel with chance or secrets: its own algorithms, given the policy as a table.

    Attributes:
        decisions: Each decision once.
    """

    def __init__(self, match: Match, limit: int) -> None:
        import pyspiel

        assert isinstance(match.game, OpenSpiel)
        self.spiel, self.match, self.game = pyspiel, match, match.game.spiel_game
        self.states: dict[str, State] = {}  # by OpenSpiel's information states, which may tell more than we show
        self.actions: dict[str, dict[int, str]] = {}
        self._look(match.game.clone(), limit)
        self.decisions = {self._key(seen) for seen in self.states}

    def _look(self, view: Any, limit: int) -> None:
        """Visits every history; ``view`` is a game to show them through."""
        waiting, count = [self.game.new_initial_state()], 0
        while waiting:
            state = waiting.pop()
            if state.is_terminal():
                continue
            waiting += [state.child(action) for action in state.legal_actions()]
            if state.is_chance_node():
                continue
            count += 1
            if count > limit:
                raise _too_large(self.match, limit)
            seen = state.information_state_string()
            if seen not in self.states:
                view.node, view.current_player = Node(state, None), state.current_player()
                self.states[seen] = _seen(self.match, view)
                self.actions[seen] = {action: view.action_name(action) for action in state.legal_actions()}

    def _key(self, seen: str) -> Key:
        return self.states[seen].player, self.states[seen].observation

    def _chances(self, table: PolicyTable, seen: str) -> list[tuple[int, float]]:
        moves = dict(table.moves[self._key(seen)])  # of two actions with one name the first is meant
        return [(action, moves.pop(name, 0.0)) for action, name in self.actions[seen].items()]

    def _policy(self, table: PolicyTable) -> Any:
        table.ask(list(self.states.values()))
        return self.spiel.TabularPolicy({seen: self._chances(table, seen) for seen in self.states})

    def self_play(self, table: PolicyTable) -> tuple[list[float], dict[Key, float]]:
        """What each seat earns when the policy plays both, and how often a game meets each decision."""
        policy = self._policy(table)
        reached: defaultdict[Key, float] = defaultdict(float)
        waiting = [(self.game.new_initial_state(), 1.0)]
        while waiting:
            state, chance = waiting.pop()
            if state.is_terminal() or not chance:
                continue
            if state.is_chance_node():
                moves = state.chance_outcomes()
            else:
                seen = state.information_state_string()
                reached[self._key(seen)] += chance
                moves = self._chances(table, seen)
            waiting += [(state.child(action), chance * share) for action, share in moves]
        return self._returns([policy, policy]), reached

    def against_uniform(self, table: PolicyTable, seat: int) -> float:
        """What the policy earns in ``seat`` against uniform play."""
        players = [self.spiel.UniformRandomPolicy(self.game)] * 2
        players[seat] = self._policy(table)
        return self._returns(players)[seat]

    def best_response(self, table: PolicyTable, seat: int) -> Pair:
        """What both earn when the policy is in ``seat`` and the other replies as well as can be."""
        players = [self._policy(table)] * 2
        answer = self.spiel.TabularBestResponse(self.game, 1 - seat, players[seat])
        players[1 - seat] = answer.get_best_response_policy()
        first, second = self._returns(players)
        return first, second

    def _returns(self, players: list[Any]) -> list[float]:
        root = self.game.new_initial_state()
        return [float(value) for value in self.spiel.expected_returns(root, players, -1, True)]


Tree = Positions | Histories
