"""One seat's side of a game as a conversation in tokens: the only place where prompts are built."""

from __future__ import annotations

from typing import Any, Literal

from algos.data.episodes import Episode, Turn
from algos.engines.base import Sample
from algos.model.chat import Chat, Messages

Context = Literal["turn", "episode"]


class Conversation:
    """One seat's side of a game: what its player is shown, the prompt that follows from it, and what it replies.

    In context ``turn`` a prompt is the rules and the situation now. In context ``episode`` it is the conversation so
    far: all earlier tokens exactly as they were, then what is new.

    Args:
        chat: The tokenizer and its chat template; None for a player that reads no tokens: its prompts stay empty.
        episode: Records the turns; None: a new episode.
        rules: The system message, where no observation will bring it.

    Attributes:
        prompt_ids: The prompt that the next reply answers.
    """

    def __init__(self, chat: Chat | None, context: Context, episode: Episode | None = None, rules: str = "") -> None:
        self.chat, self.context, self.episode = chat, context, episode or Episode("", 0)
        self.prompt_ids: list[int] = []
        self.observation = ""
        self.info: dict[str, Any] = {}
        self._rules: Messages = [{"role": "system", "content": rules}] if rules else []

    def observe(self, observation: str, info: dict[str, Any] | None = None) -> None:
        """Records what the environment shows and builds the prompt of the next reply."""
        self.observation, self.info = observation, info or {}
        messages = self.info.get("messages") or [{"role": "user", "content": observation}]
        turns = self.episode.turns
        rules = [message for message in messages if message["role"] == "system" and not turns]
        if rules:
            self._rules, self.episode.rules = rules, rules[0]["content"]
        if self.chat is None:
            return
        if turns and self.context == "episode":
            self.prompt_ids = self.chat.following(turns[-1].prompt_ids, turns[-1].action_ids, messages)
        else:
            self.prompt_ids = self.chat.first(messages if rules else self._rules + messages)

    def reply(self, sample: Sample, version: int) -> Turn:
        """Records a sampled reply to ``prompt_ids``."""
        assert self.chat is not None
        return self._record(sample, self.chat.decode(sample.ids), version)

    def reply_with(self, text: str) -> Turn:
        """Records a known reply: its tokens, where there is a tokenizer, are those of the text and end-of-text."""
        ids: list[int] = []
        if self.chat is not None:
            tokenizer = self.chat.tokenizer
            ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        return self._record(Sample(ids, [0.0] * len(ids), "stop"), text, version=0)

    def _record(self, sample: Sample, text: str, version: int) -> Turn:
        turn = Turn(self.prompt_ids, sample.ids, sample.logprobs, self.observation, text)
        turn.stop_reason, turn.policy_version, turn.player = sample.stop_reason, version, self.episode.player
        self.episode.turns.append(turn)
        return turn

    def finish(self, observation: str, info: dict[str, Any], terminated: bool) -> None:
        """Closes the episode; a truncated one keeps the prompt that has no reply."""
        episode = self.episode
        episode.terminated, episode.truncated = terminated, not terminated
        episode.last_observation = observation
        episode.info = {key: value for key, value in info.items() if key != "messages"}
        episode.final_prompt_ids = [] if terminated else self.prompt_ids
        total = episode.total_reward
        by_sign = "win" if total > 0 else "loss" if total < 0 else "draw"
        episode.outcome = info.get("outcome", by_sign if terminated else "truncated")
