"""Playing a fixed set of games before, during and after training: one mechanism for every trainer and environment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from algos.rollout.chat import Chat
from algos.rollout.play import Rollout, make_envs
from algos.rollout.records import Episode
from algos.rollout.tasks import EnvSpec, Task
from algos.run.config import Config, ConfigError, EnvSection, Further, RolloutSection
from algos.run.exact import exact, greedy
from algos.run.game_tree import MAX_DECISIONS, Positions, Tree, walk
from algos.run.intervals import wilson
from algos.run.mbpp import from_variables
from algos.run.model_policy import ModelPolicy
from algos.run.score import score, score_by_seat, task_figures

__all__ = ["Evaluation", "Evaluator", "check_evaluations", "evaluate", "score", "score_by_seat", "wilson"]

Phase = Literal["before", "during", "after"]
MAIN = "eval"
AUTO_DECISIONS = 6_000
"""``exact: auto`` walks games of at most so many decisions, where the policy is greedy: it meets few of them."""
AUTO_SAMPLED = 500
"""And of at most so many where it is sampled, or something is hidden: all of them are asked about."""


@dataclass(frozen=True)
class Evaluation:
    """A fixed set of episodes and when to play them.

    Attributes:
        episodes: Starts; with several ``samples`` so many episodes each. ``all``: each task of a data set once.
        rollout: How episodes are played, its temperature apart.
        details: Folder for one JSON line an episode; None: none are written.
    """

    name: str
    env: EnvSpec
    episodes: int | Literal["all"]
    temperature: float
    rollout: RolloutSection
    samples: int = 1
    every: int = 0
    before: bool = True
    after: bool = True
    details: Path | None = None

    def starts(self, seed: int = 0) -> list[Task]:
        """What is played, each start ``samples`` times running: always the same, and training never meets the seeds.

        Start i has seed i (and ``seed`` millions). Where the game has a list of ``tasks`` (MBPP), it is besides the
        i-th of them in a fixed random order: n starts are n different tasks, and more starts include those of fewer.

        Raises:
            ConfigError: The environment cannot be made, or has no tasks for ``episodes: all`` to go through.
        """
        game: Any = getattr(make_envs(self.env, 1)[0].unwrapped, "game", None)
        tasks = getattr(game, "tasks", ())
        if self.episodes == "all" and not tasks:
            raise ConfigError(f"{self.name}: {self.env.id} has no list of tasks to go through: give a number, not all")
        count = len(tasks) if self.episodes == "all" else self.episodes
        starts = [Task(self.env, seed * 10**6 + number) for number in range(count)]
        if tasks:
            order = np.random.default_rng(0).permutation(len(tasks)).tolist()
            ids = [tasks[order[number % len(tasks)]].task_id for number in range(count)]
            starts = [
                replace(start, env=replace(self.env, settings=_with(self.env, task_id=number)))
                for start, number in zip(starts, ids, strict=True)
            ]
        return [start for start in starts for _ in range(self.samples)]

    def rollout_with(self, engine: Any, chat: Chat) -> Rollout:
        limits = self.rollout.max_turns, self.rollout.max_prompt_tokens
        return Rollout([], engine, chat, self.env.id, self.rollout.context, *limits)

    def wanted(self, step: int, phase: Phase) -> bool:
        if phase == "during":
            return bool(self.every) and step % self.every == 0
        return self.before if phase == "before" else self.after


def _with(env: EnvSpec, **changes: Any) -> str:
    return json.dumps({**env.kwargs, **changes}, sort_keys=True)


def evaluations(config: Config) -> list[Evaluation]:
    """What ``eval`` and the ``MBPP_`` environment variables ask for; the main evaluation first.

    Raises:
        ConfigError: A variable cannot be read, or two evaluations have one name.
    """
    main = config.eval
    env = EnvSpec.of(EnvSection(id=config.env.id, **{**config.env.settings, **main.env}))
    asked = [Evaluation(MAIN, env, main.episodes, main.temperature, config.rollout, every=main.every)]
    by_variables = [one for one in [from_variables(os.environ)] if one]  # they go before a file that names the same
    also = [one for one in main.also if one.name not in [other.name for other in by_variables]]
    asked += [_further(one, config) for one in also + by_variables]
    names = [one.name for one in asked]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"eval.also: there are two evaluations called {name!r}")
    return asked


def longest(config: Config) -> int:
    """Tokens of the longest prompt and reply that training or an evaluation may request."""
    limits = [config.rollout, *(evaluation.rollout for evaluation in evaluations(config))]
    return max(limit.max_prompt_tokens + limit.max_new_tokens for limit in limits)


def _further(one: Further, config: Config) -> Evaluation:
    if isinstance(one.episodes, int) and one.episodes < 1:
        raise ConfigError(f"eval.also: {one.name}: episodes must be at least 1, or all (got {one.episodes})")
    rollout, usual = config.rollout, RolloutSection()
    changes: dict[str, int] = {"max_new_tokens": one.max_new_tokens or rollout.max_new_tokens}
    if one.id:  # limits that suit the trained game may cut another
        changes["max_turns"] = max(rollout.max_turns, usual.max_turns)
        changes["max_prompt_tokens"] = max(rollout.max_prompt_tokens, usual.max_prompt_tokens)
    settings = one.settings if one.id else {**config.env.settings, **config.eval.env, **one.settings}
    return Evaluation(
        name=one.name,
        env=EnvSpec.of(EnvSection(id=one.id or config.env.id, **settings)),
        episodes=one.episodes,
        temperature=config.eval.temperature if one.temperature is None else one.temperature,
        rollout=rollout.model_copy(update=changes),
        samples=one.samples,
        every=config.eval.every if one.every is None else one.every,
        before=one.before,
        after=one.after,
        details=one.details or config.run.dir / "evaluations",
    )


def check_evaluations(config: Config) -> None:
    """Tries out every evaluation's environment, before anything costly starts.

    Raises:
        ConfigError: One cannot be made, or a setting of it is wrong.
    """
    for evaluation in evaluations(config):
        evaluation.starts()
    if config.eval.exact is True:
        game_tree(config)


def game_tree(config: Config) -> Tree | None:
    """The game of the main evaluation, where ``eval.exact`` wants it walked.

    Raises:
        ConfigError: It is to be walked at all costs, and cannot be.
    """
    wanted, turns = config.eval.exact, config.rollout.context == "turn"
    if not wanted or (wanted == "auto" and not (turns and config.eval.episodes)):
        return None
    try:
        if not turns:
            raise ValueError("a player's past replies are part of its prompts: set rollout.context turn")
        env: Any = make_envs(evaluations(config)[0].env, 1)[0].unwrapped
        tree = walk(getattr(env, "match", env), MAX_DECISIONS if wanted is True else AUTO_DECISIONS)
    except ValueError as error:
        if wanted == "auto":
            return None
        raise ConfigError(f"eval.exact: {error}") from None
    few = isinstance(tree, Positions) and config.eval.temperature == 0
    return tree if wanted is True or few or len(tree.decisions) <= AUTO_SAMPLED else None


def exact_figures(tree: Tree, model: Any, chat: Chat, temperature: float) -> dict[str, Any]:
    """:func:`algos.run.exact.exact` of a model, its numbers and the least value that it has in any seat."""
    policy: Any = ModelPolicy(model, chat, tree.match, temperature or 1.0)
    found = exact(tree, policy if temperature else greedy(policy))
    numbers = {key: value for key, value in found.items() if not isinstance(value, list) and key != "decisions"}
    return {**numbers, "worst_value": min(found["value_against_best_response"]), "exact": found}


class Evaluator:
    """The evaluations of a run. They share the engine with training and nothing else: no run changes by evaluating.

    Args:
        engine: Whatever a :class:`Rollout` samples from; its ``max_new_tokens`` is set for the time of an evaluation.

    Raises:
        ConfigError: As :func:`check_evaluations`.
    """

    def __init__(self, config: Config, engine: Any, chat: Chat, accelerator: Accelerator) -> None:
        self.engine, self.accelerator = engine, accelerator
        self.parallel = max(1, config.rollout.episodes // accelerator.num_processes)
        self._all = [(one, one.starts(), one.rollout_with(engine, chat)) for one in evaluations(config)]
        self.chat, self.tree = chat, game_tree(config)

    def due(self, step: int) -> bool:
        """Whether an evaluation is to be done during training, after ``step`` steps in all."""
        return any(one.wanted(step, "during") for one, _, _ in self._all)

    def run(self, step: int, phase: Phase) -> tuple[dict[str, Any], dict[str, float]]:
        """Plays what is wanted now, on every process its share.

        Returns:
            The main evaluation as :func:`score_by_seat` gives it, the others by name under ``also``; and all their
            figures as metrics, ``eval/win_rate`` and so on. Both are the same on all processes.
        """
        results = {
            one.name: self._play(one, starts, rollout, step)
            for one, starts, rollout in self._all
            if one.wanted(step, phase)
        }
        metrics = {f"{name}/{key}": value for name, result in results.items() for key, value in figures(result)}
        summary = results.pop(MAIN, None) or score_by_seat([])
        return (summary | {"also": results} if results else summary), metrics

    def _play(self, one: Evaluation, starts: list[Task], rollout: Rollout, step: int) -> dict[str, Any]:
        with replies_of(self.engine, one.rollout.max_new_tokens):
            episodes = play(rollout, starts, one.temperature, self.accelerator, self.parallel)
        if one.details and self.accelerator.is_main_process:
            write_details(one.details / f"{one.name}_{step:06d}.jsonl", episodes, one.samples)
        result = result_of(one, episodes)
        if one.name == MAIN and self.tree:
            with self.accelerator.autocast():
                result |= exact_figures(self.tree, self.engine.model, self.chat, one.temperature)
        return result


def figures(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a result, as metrics take them."""
    for key, value in result.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)


def result_of(one: Evaluation, episodes: Sequence[Episode]) -> dict[str, Any]:
    """:func:`score_by_seat`, and for a data set how many and which of its tasks were solved."""
    game: Any = getattr(make_envs(one.env, 1)[0].unwrapped, "game", None)
    result = score_by_seat(episodes, one.samples, getattr(game, "reward_range", None))
    return result | (task_figures(episodes, one.samples) if getattr(game, "tasks", ()) else {})


@contextlib.contextmanager
def replies_of(engine: Any, max_new_tokens: int) -> Iterator[None]:
    """Lets the engine's replies be so long, for a while."""
    before, engine.max_new_tokens = engine.max_new_tokens, max_new_tokens
    try:
        yield
    finally:
        engine.max_new_tokens = before


def play(
    rollout: Rollout,
    starts: Sequence[Task],
    temperature: float,
    accelerator: Accelerator,
    parallel: int,
    seed: int = 0,
    bar: bool = False,
) -> list[Episode]:
    """One episode a start, every process its share; all of them, in the order of ``starts``, on every process.

    The generator is this function's own, fixed by ``seed`` and the process: evaluating never changes a run.

    Args:
        parallel: Episodes side by side on each process.
        bar: Show progress on stderr.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    generator = _generator(accelerator, seed)
    mine, played = starts[rank::world], list[Episode]()
    with accelerator.autocast():
        for first in tqdm(range(0, len(mine), parallel), unit="batch", disable=not bar or None):
            played += rollout.play_tasks(mine[first : first + parallel], temperature, generator)
    return _in_order(played, len(starts), world)


def _generator(accelerator: Accelerator, seed: int) -> torch.Generator:
    drawn = int(np.random.SeedSequence([seed, accelerator.process_index]).generate_state(1)[0])
    return torch.Generator(accelerator.device).manual_seed(drawn)


def _in_order(played: list[Episode], n: int, world: int) -> list[Episode]:
    """The episodes of all processes, of which each played every ``world``-th."""
    numbers = [number for rank in range(world) for number in range(n)[rank::world]]
    gathered: list[Episode] = gather_object(played)
    return [episode for _, episode in sorted(zip(numbers, gathered, strict=True), key=lambda pair: pair[0])]


def evaluate(rollout: Rollout, episodes: int, temperature: float, accelerator: Accelerator) -> dict[str, Any]:
    """Plays ``episodes`` games on seeds 0, 1, 2, ... in the rollout's environments and scores them."""
    rank, world = accelerator.process_index, accelerator.num_processes
    with accelerator.autocast():
        played = rollout.play(range(episodes)[rank::world], temperature, _generator(accelerator, 0))
    return score_by_seat(_in_order(played, episodes, world))


def write_details(path: Path, episodes: Sequence[Episode], samples: int) -> None:
    """One JSON line an episode: what was asked, replied and earned, and what the environment said of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for number, episode in enumerate(episodes):
            line: dict[str, Any] = {"env": episode.env_id, "seed": episode.seed, "sample": number % samples}
            line |= {"player": episode.player, "outcome": episode.outcome, "return": episode.total_reward}
            line["turns"] = [
                {"observation": t.observation, "reply": t.reply, "parse": t.parse, "reward": t.reward}
                for t in episode.turns
            ]
            line["info"] = {k: v for k, v in episode.info.items() if k != "legal_actions"}
            file.write(json.dumps(line, default=str) + "\n")
