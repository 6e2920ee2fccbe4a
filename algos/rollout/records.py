"""What is kept of a game: turns as they were sampled, episodes, and the rows that are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from algos.rollout.tasks import Task


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
        task: What it started from.
        replayed: The task came from the failure buffer.
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
    task: Task | None = None
    replayed: bool = False

    @property
    def success(self) -> bool:
        return self.outcome in ("win", "solved")

    @property
    def total_reward(self) -> float:
        return sum(turn.reward for turn in self.turns)


@dataclass
class Row:
    """One sequence to train on: a prompt and what follows it.

    Attributes:
        prompt_ids: Tokens before the first action token.
        ids: All tokens after, actions and what the environment said between them.
        action_mask: Which of ``ids`` were sampled; from lengths, never from token values.
        old_logprobs: Log-probabilities when sampled; 0 where not sampled.
        advantages: One a token; 0 where not sampled.
        weight: The weight of each action token in the loss.
        columns: More numbers, one a token, 0 where not sampled, such as a critic's ``values``.
    """

    prompt_ids: list[int]
    ids: list[int]
    action_mask: list[bool]
    old_logprobs: list[float]
    advantages: list[float]
    weight: float = 1.0
    columns: dict[str, list[float]] = field(default_factory=dict)

    @property
    def action_tokens(self) -> int:
        return sum(self.action_mask)

    def spread(self, values: Iterable[float]) -> list[float]:
        """``values``, one an action token, as one number a token: 0 where not sampled."""
        each = iter(values)
        return [next(each) if taken else 0.0 for taken in self.action_mask]


def to_rows(turns: list[Turn], advantages: list[list[float]]) -> list[Row]:
    """Merges turns into rows while each next prompt exactly extends all tokens so far; else a new row starts.

    A merged row gives the same gradient as its turns apart, for a fraction of the tokens.

    Args:
        turns: One player's turns, in order.
        advantages: One list a turn, one number an action token.
    """
    rows: list[Row] = []
    so_far: list[int] = []
    for turn, advantage in zip(turns, advantages, strict=True):
        n = len(turn.action_ids)
        extends = bool(rows) and len(turn.prompt_ids) > len(so_far) and turn.prompt_ids[: len(so_far)] == so_far
        if extends:
            row, between = rows[-1], turn.prompt_ids[len(so_far) :]
        else:
            row, between = Row(turn.prompt_ids, [], [], [], []), []
            rows.append(row)
        row.ids += between + turn.action_ids
        row.action_mask += [False] * len(between) + [True] * n
        row.old_logprobs += [0.0] * len(between) + turn.logprobs
        row.advantages += [0.0] * len(between) + advantage
        so_far = turn.prompt_ids + turn.action_ids
    return rows
