"""Plays episodes: many environments side by side, one engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium
import torch

from algos.config.schema import Config
from algos.data.episodes import Episode
from algos.data.tasks import EnvSpec, Task
from algos.engines.base import Engine, Sample
from algos.model.chat import Chat
from algos.rollout.conversation import Context, Talk
from algos.rollout.environments import make_envs


class Seat:
    """One running episode: an environment and its agent's conversation."""

    def __init__(self, env: gymnasium.Env[str, str], chat: Chat, context: Context, episode: Episode) -> None:
        self.env = env
        observation, info = env.reset(seed=episode.seed)
        episode.player = info.get("player", 0)
        self.talk, self.episode = Talk(chat, context, episode), episode
        self.talk.hear(observation, info)
        self.done = "outcome" in info  # the opponent can end a game before our first turn: nothing to learn from it
        if self.done:
            self.talk.finish(observation, info, terminated=True)

    def reply(self, sample: Sample, version: int) -> None:
        """Plays a sampled reply and prepares the next prompt."""
        turn = self.talk.say(sample, version)
        observation, reward, terminated, truncated, info = self.env.step(turn.reply)
        turn.reward, turn.parse = float(reward), info.get("parse", "ok")
        self.done = bool(terminated or truncated)
        if not terminated:
            self.talk.hear(observation, info)
        if self.done:
            self.talk.finish(observation, info, bool(terminated))

    def cut(self) -> None:
        """Ends the episode at a limit of ours."""
        self.done = True
        self.talk.finish(self.talk.observation, self.talk.info, terminated=False)


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
    engine: Engine
    chat: Chat
    env_id: str
    context: Context
    max_turns: int
    max_prompt_tokens: int
    _made: defaultdict[EnvSpec, list[gymnasium.Env[str, str]]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def of(config: Config, envs: Sequence[gymnasium.Env[str, str]], engine: Engine, chat: Chat) -> Rollout:
        limits = config.rollout.max_turns, config.rollout.max_prompt_tokens
        return Rollout(envs, engine, chat, config.env.id, config.rollout.context, *limits)

    def play(self, seeds: Sequence[int], temperature: float, generator: torch.Generator) -> list[Episode]:
        """Plays one episode a seed, in order, in ``envs``."""
        episodes: list[Episode] = []
        for start in range(0, len(seeds), len(self.envs)):
            seats = []
            for env, seed in zip(self.envs, seeds[start : start + len(self.envs)], strict=False):
                seats.append(Seat(env, self.chat, self.context, Episode(self.env_id, seed)))
            self._finish(seats, temperature, generator)
            episodes += [seat.episode for seat in seats]
        return episodes

    def play_tasks(
        self, tasks: Sequence[Task], temperature: float, generator: torch.Generator, group_size: int = 1
    ) -> list[Episode]:
        """Plays one episode a task, all side by side; each run of ``group_size`` tasks is recorded as one group.

        Environments are made when a task first needs one more, and kept.
        """
        used: Counter[EnvSpec] = Counter()
        seats = []
        for number, task in enumerate(tasks):
            made = self._made[task.env]
            if used[task.env] == len(made):
                made += make_envs(task.env, 1)
            env = made[used[task.env]]
            used[task.env] += 1
            episode = Episode(task.env.id, task.seed, number // group_size, task=task)
            seats.append(Seat(env, self.chat, self.context, episode))
        self._finish(seats, temperature, generator)
        return [seat.episode for seat in seats]

    def _finish(self, seats: list[Seat], temperature: float, generator: torch.Generator) -> None:
        while True:
            for seat in seats:
                too_long = len(seat.talk.prompt_ids) > self.max_prompt_tokens
                if not seat.done and (too_long or len(seat.episode.turns) >= self.max_turns):
                    seat.cut()
            live = [seat for seat in seats if not seat.done]
            if not live:
                return
            samples = self.engine.generate([seat.talk.prompt_ids for seat in live], temperature, generator)
            for seat, sample in zip(live, samples, strict=True):
                seat.reply(sample, self.engine.version)
