"""A language model as a policy over legal actions, as :mod:`algos.evaluation.exact.values` asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from algos.data.batching import Batch
from algos.data.rows import Row
from algos.evaluation.exact.game_tree import State
from algos.model.chat import Chat
from algos.model.forward import Policy
from llm_gym.match import Match
from llm_gym.parsing import format_action


class ModelPolicy:
    """The probability that a model gives to the reply that carries each legal action, and ends there.

    The reply is the action in the environment's format and the tokenizer's end-of-text token, in the tokens that the
    tokenizer cuts it into. A model that reasons first, or says the same otherwise, gives these replies less.

    Args:
        match: How the environment shows its game (``env.unwrapped.match``); prompts are those of ``context: turn``.
        temperature: Of sampling: log-probabilities are those of softmax(logits / temperature).
        rows: Replies in memory at a time.
    """

    def __init__(self, model: Any, chat: Chat, match: Match, temperature: float = 1.0, rows: int = 512) -> None:
        self.model, self.chat, self.match, self.rows = model, chat, match, rows
        self.policy = Policy(model, temperature)
        self._end = chat.tokenizer.eos_token_id

    def __call__(self, states: Sequence[State]) -> list[dict[str, float]]:
        replies = [(state, action, self._row(state, action)) for state in states for action in state.legal]
        training = self.model.training
        self.model.eval()
        moves: dict[State, dict[str, float]] = {state: {} for state in states}
        for first in range(0, len(replies), self.rows):
            part = replies[first : first + self.rows]
            for (state, action, _), logprob in zip(part, self._logprobs([row for *_, row in part]), strict=True):
                moves[state][action] = logprob.exp().item()
        self.model.train(training)
        return [moves[state] for state in states]

    def _row(self, state: State, action: str) -> Row:
        prompt = self.chat.first(self.match.prompt(state.player, state.observation))
        reply = format_action(action, self.match.formats[state.player])
        ids = [*self.chat.tokenizer.encode(reply, add_special_tokens=False), self._end]
        return Row(prompt, ids, [True] * len(ids), [0.0] * len(ids), [0.0] * len(ids))

    @torch.no_grad()
    def _logprobs(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """The log-probability of each row's reply, in float64."""
        logprobs = self.policy(Batch.of(rows, next(self.model.parameters()).device)).logprobs
        return [reply.double().sum() for reply in logprobs.split([row.action_tokens for row in rows])]
