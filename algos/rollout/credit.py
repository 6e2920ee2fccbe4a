"""Credit by turn: a reply against others to the same prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from algos.maths.advantages import same_state
from algos.rollout.records import Episode


def turn_credit(episodes: Sequence[Episode], gathered: bool = False) -> None:
    """Compares each turn with those of ``episodes`` that answered the same prompt; one without company keeps its own.

    Args:
        gathered: With those of all processes, each of which has to call it.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    to_go = [sum(t.reward for t in episode.turns[i:]) for episode in episodes for i in range(len(episode.turns))]
    mine = [(tuple(turn.prompt_ids), value) for turn, value in zip(turns, to_go, strict=True)]
    first, everyone = 0, mine
    if gathered:
        first = sum(gather_object([len(mine)])[: PartialState().process_index])
        everyone = gather_object(mine)
    numbers: dict[tuple[int, ...], int] = {}
    states = torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt, _ in everyone], dtype=torch.long)
    credit, company = same_state(torch.tensor([value for _, value in everyone], dtype=torch.float64), states)
    for turn, value, others in zip(turns, credit.tolist()[first:], company.tolist()[first:]):
        turn.advantage = value if others > 1 else turn.advantage
