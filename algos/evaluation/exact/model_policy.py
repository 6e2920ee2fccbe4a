"""A language model as a policy over legal actions, as :mod:`algos.evaluation.exact.values` asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from algos.data.batching import Batch
from algos.data.rows import Row
from algos.evaluation.exact.game_tree import State
from algos.model.chat import Chat
from algos.model.forward import Policy
from algos.rollout.conversation import Conversation
from llm_gym.match import Match
from llm_gym.parsing import format_action


class ModelPolicy:
    """The probability that a model gives to the one reply that carries each legal action.

    The reply is the action in the environment's format, as the tokenizer encodes it, and the end-of-text token. A model
    that reasons first, or writes the action in another way, gives these replies less.

    Args:
        match: The match of the environment (``env.unwrapped.match``); prompts are those of ``context: turn``.
        temperature: Probabilities are those of softmax(logits / temperature).
        rows: Maximum replies in memory at a time.
    """

    def __init__(self, model: Any, chat: Chat, match: Match, temperature: float = 1.0, rows: int = 512) -> None:
        self.model, self.chat, self.match, self.rows = model, chat, match, rows
        self.policy = Policy(model, temperature)

    def __call__(self, states: Sequence[State]) -> list[dict[str, float]]:
        rows = [row for state in states for row in self._rows(state)]
        parts = [rows[first : first + self.rows] for first in range(0, len(rows), self.rows)]
        training = self.model.training
        self.model.eval()
        chances = iter([chance for part in parts for chance in self._probabilities(part)])
        self.model.train(training)
        return [dict(zip(state.legal, chances, strict=False)) for state in states]  # each takes one a legal action

    def _rows(self, state: State) -> Iterator[Row]:
        """For each legal action the prompt and the reply that carries it."""
        conversation = Conversation(self.chat, "turn", rules=self.match.systems[state.player])
        conversation.observe(state.observation)
        for action in state.legal:
            turn = conversation.reply_with(format_action(action, self.match.formats[state.player]))
            n = len(turn.action_ids)
            yield Row(turn.prompt_ids, turn.action_ids, [True] * n, turn.logprobs, [0.0] * n)

    @torch.no_grad()
    def _probabilities(self, rows: Sequence[Row]) -> list[float]:
        """The probability of each row's reply."""
        logprobs = self.policy(Batch.of(rows, next(self.model.parameters()).device)).logprobs
        return [reply.double().sum().exp().item() for reply in logprobs.split([row.action_tokens for row in rows])]
