"""Advantages by comparison: of episodes in the same game and seat, and of replies to the same prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from algos.data.episodes import Episode
from algos.maths.advantages import same_state


def among_equals(
    keys: Sequence[Hashable], values: Sequence[float], gathered: bool = False
) -> tuple[list[float], list[int]]:
    """Each of ``values`` minus the mean of the values with its key, and the number of values with its key.

    Args:
        gathered: Compare with the values of all processes, each of which has to call it.
    """
    mine = list(zip(keys, values, strict=True))
    first, everyone = 0, mine
    if gathered:
        first = sum(gather_object([len(mine)])[: PartialState().process_index])
        everyone = gather_object(mine)
    numbers: dict[Hashable, int] = {}
    states = torch.tensor([numbers.setdefault(key, len(numbers)) for key, _ in everyone], dtype=torch.long)
    more, company = same_state(torch.tensor([value for _, value in everyone], dtype=torch.float64), states)
    own = slice(first, first + len(mine))
    return more.tolist()[own], company.tolist()[own]


def seat_advantages(episodes: Sequence[Episode]) -> None:
    """Sets advantages: return minus mean return in the game and seat, over all processes and the seats that moved."""
    moved = [episode for episode in episodes if episode.turns]
    credit, _ = among_equals([(e.env_id, e.player) for e in moved], [e.total_reward for e in moved], gathered=True)
    for episode, value in zip(moved, credit, strict=True):
        for turn in episode.turns:
            turn.advantage = value


def same_prompt_advantages(episodes: Sequence[Episode], gathered: bool = False) -> None:
    """Sets the advantage of each turn: rewards from it on, minus their mean over turns with the same prompt.

    A turn whose prompt occurs once keeps its advantage.

    Args:
        gathered: Compare with the turns of all processes, each of which has to call it.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    to_go = [sum(t.reward for t in episode.turns[i:]) for episode in episodes for i in range(len(episode.turns))]
    credit, company = among_equals([tuple(turn.prompt_ids) for turn in turns], to_go, gathered)
    for turn, value, others in zip(turns, credit, company, strict=True):
        if others > 1:
            turn.advantage = value
