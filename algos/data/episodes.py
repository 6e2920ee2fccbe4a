"""What is kept of a game: turns as they were sampled, episodes, and the rows that are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from algos.data.tasks import Start


@dataclass
class Turn:
    """One reply, as sampled: nothing here is ever decoded and encoded again.

    Attributes:
        prompt_ids: The tokens the model saw.
        action_ids: The tokens it sampled, the end-of-turn token included if it was sampled.
        logprobs: Their log-probabilities when sampled, at the temperature sampled.
        observation: The environment's text that this turn answers.
        reply: ``action_ids`` as text, without the end-of-turn token.
        parse: What the environment made of it: ok, malformed, illegal.
        reward: What it brought.
        advantage: What training made of it: the mean over its tokens.
        player: The seat that spoke.
        stop_reason: ``stop`` (the model ended its turn) or ``length`` (it was cut).
        policy_version: Number of optimizer steps the sampling policy had had.
    """

    prompt_ids: list[int]
    action_ids: list[int]
    logprobs: list[float]
    observation: str = ""
    reply: str = ""
    parse: str = "ok"
    reward: float = 0.0
    advantage: float = 0.0
    player: int = 0
    stop_reason: str = "stop"
    policy_version: int = 0


@dataclass
class Episode:
    """A game as one seat played it.

    Attributes:
        truncated: It was cut by a limit, not ended by the rules: a critic bootstraps there.
        rules: The system message.
        info: The last ``info`` of the environment.
        final_prompt_ids: Of a truncated episode, the prompt that its next reply would have answered.
        start: What it started from.
        replayed: The start came from the failure buffer.
    """

    env_id: str
    seed: int
    group: int = 0
    player: int = 0
    turns: list[Turn] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    outcome: str = ""
    rules: str = ""
    last_observation: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    final_prompt_ids: list[int] = field(default_factory=list)
    start: Start | None = None
    replayed: bool = False

    @property
    def success(self) -> bool:
        return self.outcome in ("win", "solved")

    @property
    def total_reward(self) -> float:
        return sum(turn.reward for turn in self.turns)
