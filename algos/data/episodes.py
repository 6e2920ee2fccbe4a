"""The record of a game: turns as they were sampled, and episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from algos.data.tasks import Start


@dataclass
class Turn:
    """One reply as sampled. Its tokens are never decoded and encoded again.

    Columns have one number per action token; those that training writes are empty before.

    Attributes:
        prompt_ids: The tokens the model saw.
        action_ids: The tokens it sampled, the end-of-turn token included if it was sampled.
        logprobs: Their log-probabilities when sampled, at the temperature sampled.
        observation: The environment's text that this turn answers.
        reply: ``action_ids`` as text, without the end-of-turn token.
        parse: How the environment read the reply: ok, malformed, illegal.
        reward: The reward for the reply.
        player: The seat that replied.
        stop_reason: ``stop`` (the model ended its turn) or ``length`` (it reached the maximum tokens).
        policy_version: Number of optimizer steps of the policy that sampled it.
        advantages: One for each action token.
        trainer_logprobs: Log-probabilities by the trainer's own forward pass.
        reference_logprobs: Log-probabilities under the reference.
        values: The critic's estimates before each token.
        value_targets: Targets of the critic's estimates.
        tis_weights: Truncated importance weights, trainer over engine.
        engine_difference: |trainer_logprobs - logprobs|.
    """

    prompt_ids: list[int]
    action_ids: list[int]
    logprobs: list[float]
    observation: str = ""
    reply: str = ""
    parse: str = "ok"
    reward: float = 0.0
    player: int = 0
    stop_reason: str = "stop"
    policy_version: int = 0
    advantages: list[float] = field(default_factory=list)
    trainer_logprobs: list[float] = field(default_factory=list)
    reference_logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    value_targets: list[float] = field(default_factory=list)
    tis_weights: list[float] = field(default_factory=list)
    engine_difference: list[float] = field(default_factory=list)

    @property
    def old_logprobs(self) -> list[float]:
        """Log-probabilities before the update: the trainer's where it computed them, else the engine's."""
        return self.trainer_logprobs or self.logprobs

    @property
    def advantage(self) -> float:
        """The mean over its tokens; 0 before training."""
        return sum(self.advantages) / max(len(self.advantages), 1)

    @advantage.setter
    def advantage(self, value: float) -> None:
        self.advantages = [value] * len(self.action_ids)


@dataclass
class Episode:
    """A game as one seat played it.

    Attributes:
        truncated: A limit ended it, not the rules: a critic bootstraps there.
        rules: The system message.
        info: The last ``info`` of the environment.
        final_prompt_ids: The prompt of the next reply, if the episode is truncated.
        start: Its environment and seed.
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
