"""Exact values of a policy in games small enough to walk: no sampling, no intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from algos.evaluation.exact.game_tree import Histories, MoveProbabilities, PolicyTable, Positions, State, Tree, walk
from llm_gym.game import TextGame
from llm_gym.match import Match

REACHED = 1e-3
"""A decision counts as covered if games of the policy against itself meet it at least so often."""


def uniform(states: Sequence[State]) -> list[dict[str, float]]:
    """Every legal action with equal probability."""
    return [dict.fromkeys(state.legal, 1 / len(state.legal)) for state in states]


def greedy(policy: MoveProbabilities) -> MoveProbabilities:
    """The policy that plays the likeliest legal action of ``policy``, the first of several."""

    def choose(states: Sequence[State]) -> list[dict[str, float]]:
        return [{max(moves, key=lambda move: moves[move]): sum(moves.values())} for moves in policy(states)]

    return choose


def exact(game: str | TextGame | Match | Tree, policy: MoveProbabilities) -> dict[str, Any]:
    """What the policy is worth, to the last digit.

    Returns:
        ``value``: what each seat earns when the policy plays both; ``value_against_random`` and
        ``value_against_best_response``: what it earns in each seat against these; ``nash_conv``: what both players
        together could gain by best responses to it (Lanctot et al. 2017, arXiv 1711.00832, section 4), 0 in an
        equilibrium; ``decisions``: how many it was asked about; ``legal_reply_probability`` and
        ``least_legal_reply_probability``: the mean and the least over these; ``state_coverage``: the share of the
        game's decisions that it meets at least once in 1,000 games against itself.

    Raises:
        ValueError: The game cannot be walked.
    """
    tree = game if isinstance(game, Positions | Histories) else walk(game)
    table = PolicyTable(policy)
    value, reached = tree.self_play(table)
    against = [tree.against_uniform(table, seat) for seat in (0, 1)]
    answers = [tree.best_response(table, seat) for seat in (0, 1)]
    legal = list(table.legal.values())
    return {
        "value": value,
        "value_against_random": against,
        "value_against_best_response": [answers[seat][seat] for seat in (0, 1)],
        "nash_conv": sum(answers[seat][1 - seat] - value[1 - seat] for seat in (0, 1)),
        "decisions": len(legal),
        "legal_reply_probability": sum(legal) / len(legal),
        "least_legal_reply_probability": min(legal),
        "state_coverage": sum(chance >= REACHED for chance in reached.values()) / len(tree.decisions),
    }


def nash_conv(game: str | TextGame | Match | Tree, policy: MoveProbabilities) -> float:
    """``exact(game, policy)["nash_conv"]``.

    Raises:
        ValueError: The game cannot be walked.
    """
    return float(exact(game, policy)["nash_conv"])
