"""One player's side of a game as a conversation in tokens."""

from __future__ import annotations

from typing import Any, Literal

from algos.data.episodes import Episode, Turn
from algos.engines.base import Sample
from algos.model.chat import Chat, Messages

Context = Literal["turn", "episode"]


class Conversation:
    """One player's side of a game as a conversation in tokens: what it is told, and what it replies."""

    def __init__(self, chat: Chat, context: Context, episode: Episode) -> None:
        self.chat, self.context, self.episode = chat, context, episode
        self.prompt_ids: list[int] = []
        self.observation = ""
        self.info: dict[str, Any] = {}
        self._rules: Messages = []

    def observe(self, observation: str, info: dict[str, Any]) -> None:
        """Takes in what the environment shows; ``prompt_ids`` is then the prompt of the next reply."""
        messages = info.get("messages") or [{"role": "user", "content": observation}]
        turns = self.episode.turns
        self.observation, self.info = observation, info
        if not turns:
            self._rules = [m for m in messages if m["role"] == "system"]
            self.episode.rules = self._rules[0]["content"] if self._rules else ""
            self.prompt_ids = self.chat.first(messages)
        elif self.context == "turn":
            self.prompt_ids = self.chat.first(self._rules + messages)
        else:
            self.prompt_ids = self.chat.following(turns[-1].prompt_ids, turns[-1].action_ids, messages)

    def reply(self, sample: Sample, version: int) -> Turn:
        """Records a sampled reply to ``prompt_ids``."""
        text = self.chat.decode(sample.ids)
        turn = Turn(self.prompt_ids, sample.ids, sample.logprobs, self.observation, text)
        turn.stop_reason, turn.policy_version, turn.player = sample.stop_reason, version, self.episode.player
        self.episode.turns.append(turn)
        return turn

    def finish(self, observation: str, info: dict[str, Any], terminated: bool) -> None:
        """Closes the episode; a truncated one keeps the prompt that was left unanswered."""
        episode = self.episode
        episode.terminated, episode.truncated = terminated, not terminated
        episode.last_observation = observation
        episode.info = {key: value for key, value in info.items() if key != "messages"}
        episode.final_prompt_ids = [] if terminated else self.prompt_ids
        total = episode.total_reward
        by_sign = "win" if total > 0 else "loss" if total < 0 else "draw"
        episode.outcome = info.get("outcome", by_sign if terminated else "truncated")
