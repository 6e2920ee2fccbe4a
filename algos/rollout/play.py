"""Plays episodes: many environments side by side, one engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import torch

import llm_gym  # noqa: F401 - registers its environments
from algos.rollout.chat import Chat
from algos.rollout.hf import HFEngine
from algos.rollout.records import Episode, Turn
from algos.run.config import Config, ConfigError, EnvSection

Context = Literal["turn", "episode"]


def make_envs(env: EnvSection, n: int, **changes: Any) -> list[gymnasium.Env[str, str]]:
    """``n`` environments, the first of them tried out.

    Raises:
        ConfigError: There is no such id, it refuses a setting, an extra it needs is not installed, or it is no text.
    """
    try:
        envs: list[gymnasium.Env[str, str]] = [gymnasium.make(env.id, **{**env.settings, **changes}) for _ in range(n)]
        observation: object = envs[0].reset(seed=0)[0]
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"env: {error}") from None
    if not isinstance(observation, str):
        raise ConfigError(f"env.id: {env.id} shows {type(observation).__name__}, not text (str)")
    return envs


class Seat:
    """One running episode: an environment and the conversation so far."""

    def __init__(self, rollout: Rollout, env: gymnasium.Env[str, str], seed: int, group: int) -> None:
        self.env, self.context, self.chat = env, rollout.context, rollout.chat
        observation, info = env.reset(seed=seed)
        messages = info.get("messages") or [{"role": "user", "content": observation}]
        rules = [m for m in messages if m["role"] == "system"]
        told = rules[0]["content"] if rules else ""
        self.episode = Episode(rollout.env_id, seed, group, player=info.get("player", 0), rules=told)
        self._rules = rules
        self.observation = observation
        self.prompt_ids = self.chat.first(messages)
        self.done = "outcome" in info  # the opponent can end a game before our first turn: nothing to learn from it
        if self.done:
            self._finish(info, terminated=True)

    def reply(self, ids: list[int], logprobs: list[float], stop_reason: str, version: int) -> None:
        """Plays a sampled reply and prepares the next prompt."""
        text = self.chat.decode(ids)
        turn = Turn(
            self.prompt_ids, ids, logprobs, self.observation, text, stop_reason=stop_reason, policy_version=version
        )
        self.observation, reward, terminated, truncated, info = self.env.step(text)
        turn.reward = float(reward)
        turn.parse = info.get("parse", "ok")
        turn.player = info.get("player", 0)
        self.episode.turns.append(turn)
        if terminated or truncated:
            self._finish(info, terminated=bool(terminated))
            return
        messages = info.get("messages") or [{"role": "user", "content": self.observation}]
        if self.context == "turn":
            self.prompt_ids = self.chat.first(self._rules + messages)
        else:
            self.prompt_ids = self.chat.following(turn.prompt_ids, ids, messages)

    def cut(self) -> None:
        """Ends the episode at a limit of ours."""
        self._finish({}, terminated=False)

    def _finish(self, info: dict[str, Any], terminated: bool) -> None:
        self.done = True
        episode = self.episode
        episode.terminated, episode.truncated = terminated, not terminated
        episode.last_observation = self.observation
        episode.info = {key: value for key, value in info.items() if key != "messages"}
        total = episode.total_reward
        by_sign = "win" if total > 0 else "loss" if total < 0 else "draw"
        episode.outcome = info.get("outcome", by_sign if terminated else "truncated")


@dataclass
class Rollout:
    """Environments, an engine and a chat template: whatever plays episodes.

    Attributes:
        envs: How many episodes run side by side; they are reset with the seeds.
        context: ``turn``: a prompt is the rules and the situation now. ``episode``: it is the conversation so far.
        max_turns: An episode is truncated after so many replies.
        max_prompt_tokens: An episode is truncated where its next prompt would be longer.
    """

    envs: Sequence[gymnasium.Env[str, str]]
    engine: HFEngine
    chat: Chat
    env_id: str
    context: Context
    max_turns: int
    max_prompt_tokens: int

    @staticmethod
    def of(config: Config, envs: Sequence[gymnasium.Env[str, str]], engine: HFEngine, chat: Chat) -> Rollout:
        limits = config.rollout.max_turns, config.rollout.max_prompt_tokens
        return Rollout(envs, engine, chat, config.env.id, config.rollout.context, *limits)

    def play(
        self, seeds: Sequence[int], temperature: float, generator: torch.Generator, group_size: int = 1
    ) -> list[Episode]:
        """Plays one episode a seed, in order; each run of ``group_size`` seeds is recorded as one group."""
        episodes: list[Episode] = []
        for start in range(0, len(seeds), len(self.envs)):
            seats = [
                Seat(self, env, seed, (start + i) // group_size)
                for i, (env, seed) in enumerate(zip(self.envs, seeds[start : start + len(self.envs)], strict=False))
            ]
            self._finish(seats, temperature, generator)
            episodes += [seat.episode for seat in seats]
        return episodes

    def _finish(self, seats: list[Seat], temperature: float, generator: torch.Generator) -> None:
        while True:
            for seat in seats:
                too_long = len(seat.prompt_ids) > self.max_prompt_tokens
                if not seat.done and (too_long or len(seat.episode.turns) >= self.max_turns):
                    seat.cut()
            live = [seat for seat in seats if not seat.done]
            if not live:
                return
            samples = self.engine.generate([seat.prompt_ids for seat in live], temperature, generator)
            for seat, sample in zip(live, samples, strict=True):
                seat.reply(sample.ids, sample.logprobs, sample.stop_reason, self.engine.version)
