"""What is evaluated, on which starts, and when."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from algos.config.schema import Config, EnvSection, ExtraEvaluation, RolloutSection
from algos.data.tasks import EnvKey, Start
from algos.errors import ConfigError
from algos.evaluation.mbpp_variables import from_variables
from algos.rollout.environments import make_env

Phase = Literal["before", "during", "after"]
MAIN = "eval"


@dataclass(frozen=True)
class Evaluation:
    """A fixed set of episodes and when to play them.

    Attributes:
        episodes: Starts; with several ``samples`` so many episodes each. ``all``: each task of a data set once.
        rollout: How episodes are played, its temperature apart.
        details: Folder for one JSON line an episode; None: none are written.
    """

    name: str
    env: EnvKey
    episodes: int | Literal["all"]
    temperature: float
    rollout: RolloutSection
    samples: int = 1
    every: int = 0
    before: bool = True
    after: bool = True
    details: Path | None = None

    def starts(self, seed: int = 0) -> list[Start]:
        """What is played, each start ``samples`` times running: always the same, and training never meets the seeds.

        Start i has seed i (and ``seed`` millions). Where the game has a list of ``tasks`` (MBPP), it is besides the
        i-th of them in a fixed random order: n starts are n different tasks, and more starts include those of fewer.

        Raises:
            ConfigError: The environment cannot be made, or has no tasks for ``episodes: all`` to go through.
        """
        game: Any = getattr(make_env(self.env).unwrapped, "game", None)
        tasks = getattr(game, "tasks", ())
        if self.episodes == "all" and not tasks:
            raise ConfigError(f"{self.name}: {self.env.id} has no list of tasks to go through: give a number, not all")
        count = len(tasks) if self.episodes == "all" else self.episodes
        starts = [Start(self.env, seed * 10**6 + number) for number in range(count)]
        if tasks:
            order = np.random.default_rng(0).permutation(len(tasks)).tolist()
            ids = [tasks[order[number % len(tasks)]].task_id for number in range(count)]
            starts = [
                replace(start, env=replace(self.env, settings=_with(self.env, task_id=number)))
                for start, number in zip(starts, ids, strict=True)
            ]
        return [start for start in starts for _ in range(self.samples)]

    def wanted(self, step: int, phase: Phase) -> bool:
        if phase == "during":
            return bool(self.every) and step % self.every == 0
        return self.before if phase == "before" else self.after


def _with(env: EnvKey, **changes: Any) -> str:
    return json.dumps({**env.kwargs, **changes}, sort_keys=True)


def evaluations(config: Config) -> list[Evaluation]:
    """What ``eval`` and the ``MBPP_`` environment variables ask for; the main evaluation first.

    Raises:
        ConfigError: A variable cannot be read, or two evaluations have one name.
    """
    main = config.eval
    env = EnvKey.of(EnvSection(id=config.env.id, **{**config.env.settings, **main.env}))
    asked = [Evaluation(MAIN, env, main.episodes, main.temperature, config.rollout, every=main.every)]
    by_variables = [one for one in [from_variables(os.environ)] if one]  # they go before a file that names the same
    also = [one for one in main.extra if one.name not in [other.name for other in by_variables]]
    asked += [_extra(one, config) for one in also + by_variables]
    names = [one.name for one in asked]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"eval.extra: there are two evaluations called {name!r}")
    return asked


def _extra(one: ExtraEvaluation, config: Config) -> Evaluation:
    if isinstance(one.episodes, int) and one.episodes < 1:
        raise ConfigError(f"eval.extra: {one.name}: episodes must be at least 1, or all (got {one.episodes})")
    rollout, usual = config.rollout, RolloutSection()
    changes: dict[str, int] = {"max_new_tokens": one.max_new_tokens or rollout.max_new_tokens}
    if one.id:  # limits that suit the trained game may cut another
        changes["max_turns"] = max(rollout.max_turns, usual.max_turns)
        changes["max_prompt_tokens"] = max(rollout.max_prompt_tokens, usual.max_prompt_tokens)
    settings = one.settings if one.id else {**config.env.settings, **config.eval.env, **one.settings}
    return Evaluation(
        name=one.name,
        env=EnvKey.of(EnvSection(id=one.id or config.env.id, **settings)),
        episodes=one.episodes,
        temperature=config.eval.temperature if one.temperature is None else one.temperature,
        rollout=rollout.model_copy(update=changes),
        samples=one.samples,
        every=config.eval.every if one.every is None else one.every,
        before=one.before,
        after=one.after,
        details=one.details or config.run.dir / "evaluations",
    )


def longest(config: Config) -> int:
    """Tokens of the longest prompt and reply that training or an evaluation may ask for."""
    limits = [config.rollout, *(evaluation.rollout for evaluation in evaluations(config))]
    return max(limit.max_prompt_tokens + limit.max_new_tokens for limit in limits)
