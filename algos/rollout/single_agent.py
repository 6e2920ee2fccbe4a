"""Plays episodes: many environments side by side, one engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium
import torch

from algos.config.schema import Config
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start
from algos.engines.base import Engine, Sample
from algos.model.chat import Chat
from algos.rollout.conversation import Context, Conversation
from algos.rollout.environments import make_envs


class RunningEpisode:
    """One running episode: an environment and its agent's conversation."""

    def __init__(self, env: gymnasium.Env[str, str], chat: Chat, context: Context, episode: Episode) -> None:
        self.env = env
        observation, info = env.reset(seed=episode.seed)
        episode.player = info.get("player", 0)
        self.conversation, self.episode = Conversation(chat, context, episode), episode
        self.conversation.observe(observation, info)
        self.done = "outcome" in info  # the opponent can end a game before our first turn: nothing to learn from it
        if self.done:
            self.conversation.finish(observation, info, terminated=True)

    def reply(self, sample: Sample, version: int) -> None:
        """Plays a sampled reply and prepares the next prompt."""
        turn = self.conversation.reply(sample, version)
        observation, reward, terminated, truncated, info = self.env.step(turn.reply)
        turn.reward, turn.parse = float(reward), info.get("parse", "ok")
        self.done = bool(terminated or truncated)
        if not terminated:
            self.conversation.observe(observation, info)
        if self.done:
            self.conversation.finish(observation, info, bool(terminated))

    def cut(self) -> None:
        """Ends the episode at a limit of ours."""
        self.done = True
        self.conversation.finish(self.conversation.observation, self.conversation.info, terminated=False)


@dataclass
class EpisodeRunner:
    """Environments, an engine and a chat template: whatever plays episodes.

    Attributes:
        envs: How many episodes run side by side; they are reset with the seeds.
        context: ``turn``: a prompt is the rules and the situation now. ``episode``: it is the conversation so far.
        max_turns: An episode is truncated after so many replies.
        max_prompt_tokens: An episode is truncated where its next prompt would be longer.
    """

    envs: Sequence[gymnasium.Env[str, str]]
    engine: Engine
    chat: Chat
    env_id: str
    context: Context
    max_turns: int
    max_prompt_tokens: int
    _made: defaultdict[EnvKey, list[gymnasium.Env[str, str]]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def of(config: Config, envs: Sequence[gymnasium.Env[str, str]], engine: Engine, chat: Chat) -> EpisodeRunner:
        limits = config.rollout.max_turns, config.rollout.max_prompt_tokens
        return EpisodeRunner(envs, engine, chat, config.env.id, config.rollout.context, *limits)

    def play(self, seeds: Sequence[int], temperature: float, generator: torch.Generator) -> list[Episode]:
        """Plays one episode a seed, in order, in ``envs``."""
        episodes: list[Episode] = []
        for start in range(0, len(seeds), len(self.envs)):
            running = []
            for env, seed in zip(self.envs, seeds[start : start + len(self.envs)], strict=False):
                running.append(RunningEpisode(env, self.chat, self.context, Episode(self.env_id, seed)))
            self._finish(running, temperature, generator)
            episodes += [seat.episode for seat in running]
        return episodes

    def play_starts(
        self, starts: Sequence[Start], temperature: float, generator: torch.Generator, group_size: int = 1
    ) -> list[Episode]:
        """Plays one episode a start, all side by side; each run of ``group_size`` starts is recorded as one group.

        Environments are made when a start first needs one more, and kept.
        """
        used: Counter[EnvKey] = Counter()
        running = []
        for number, start in enumerate(starts):
            made = self._made[start.env]
            if used[start.env] == len(made):
                made += make_envs(start.env, 1)
            env = made[used[start.env]]
            used[start.env] += 1
            episode = Episode(start.env.id, start.seed, number // group_size, start=start)
            running.append(RunningEpisode(env, self.chat, self.context, episode))
        self._finish(running, temperature, generator)
        return [seat.episode for seat in running]

    def _finish(self, running: list[RunningEpisode], temperature: float, generator: torch.Generator) -> None:
        while True:
            for seat in running:
                too_long = len(seat.conversation.prompt_ids) > self.max_prompt_tokens
                if not seat.done and (too_long or len(seat.episode.turns) >= self.max_turns):
                    seat.cut()
            live = [seat for seat in running if not seat.done]
            if not live:
                return
            samples = self.engine.generate([seat.conversation.prompt_ids for seat in live], temperature, generator)
            for seat, sample in zip(live, samples, strict=True):
                seat.reply(sample, self.engine.version)
