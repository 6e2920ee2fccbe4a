"""Plays episodes with a scripted player in the agent's seat: for warm starts, evaluation, docs and checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from llm_gym.match import Match
from llm_gym.opponents.simple import OpponentFn, Player
from llm_gym.parsing import format_action


class Step(NamedTuple):
    """One turn of the agent: what it was shown, its reply, and what the environment returned."""

    observation: str
    info: dict[str, Any]
    reply: str
    reward: float
    next_observation: str
    next_info: dict[str, Any]
    terminated: bool
    truncated: bool


class _Steps(Protocol):
    def step(self, action: str, /) -> tuple[str, Any, bool, bool, dict[str, Any]]: ...


def scripted_replies(match: Match, player: Player, rng: np.random.Generator) -> OpponentFn:
    """The replies that ``player`` gives in ``match``, in any seat; they draw from ``rng`` alone.

    The player looks at the game itself, so a reply is asked for when it is that seat's turn.
    """

    def reply(observation: str, info: dict[str, Any]) -> str:
        return format_action(player.choose(match.game, rng), match.formats[info["player"]])

    return reply


def play_scripted(env: _Steps, reply: OpponentFn, start: tuple[str, dict[str, Any]]) -> Iterator[Step]:
    """Plays an episode to its end, one step at a time.

    Args:
        env: A text environment.
        reply: What the agent replies to an observation and its ``info``, such as :func:`scripted_replies`.
        start: What ``env.reset`` returned. Where the opponent has ended the game before the agent's first turn
            (``info`` has ``outcome``), there is no step.
    """
    observation, info = start
    over = info.get("outcome") is not None
    while not over:
        said = reply(observation, info)
        after, reward, terminated, truncated, next_info = env.step(said)
        yield Step(observation, info, said, reward, after, next_info, terminated, truncated)
        observation, info, over = after, next_info, terminated or truncated
