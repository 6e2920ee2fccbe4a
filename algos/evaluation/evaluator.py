"""Playing a fixed set of games before, during and after training: one mechanism for every trainer and environment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from algos.config.schema import Config
from algos.data.episodes import Episode
from algos.data.tasks import Start
from algos.errors import ConfigError
from algos.evaluation.exact.game_tree import MAX_DECISIONS, Positions, Tree, walk
from algos.evaluation.exact.model_policy import ModelPolicy
from algos.evaluation.exact.values import exact, greedy
from algos.evaluation.plan import MAIN, Evaluation, Phase, evaluations
from algos.evaluation.score import score, score_by_seat, task_metrics
from algos.maths.seeds import evaluation_generator
from algos.maths.statistics import wilson
from algos.model.chat import Chat
from algos.rollout.environments import make_env
from algos.rollout.playing import ModelPlayer, Player
from algos.rollout.single_agent import EpisodeRunner

__all__ = ["Evaluation", "Evaluator", "check_evaluations", "score", "score_by_seat", "wilson"]
AUTO_DECISIONS = 6_000
"""``exact: auto`` walks games of at most so many decisions, where the policy is greedy: it meets few of them."""
AUTO_SAMPLED = 500
"""And of at most so many where it is sampled, or something is hidden: all of them are asked about."""


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
        env: Any = make_env(evaluations(config)[0].env).unwrapped
        tree = walk(getattr(env, "match", env), MAX_DECISIONS if wanted is True else AUTO_DECISIONS)
    except ValueError as error:
        if wanted == "auto":
            return None
        raise ConfigError(f"eval.exact: {error}") from None
    few = isinstance(tree, Positions) and config.eval.temperature == 0
    return tree if wanted is True or few or len(tree.decisions) <= AUTO_SAMPLED else None


def exact_metrics(tree: Tree, model: Any, chat: Chat, temperature: float) -> dict[str, Any]:
    """What ``exact`` finds for a model, and the lowest value that it has in any seat."""
    policy: Any = ModelPolicy(model, chat, tree.match, temperature or 1.0)
    found = exact(tree, policy if temperature else greedy(policy))
    numbers = {key: value for key, value in found.items() if not isinstance(value, list) and key != "decisions"}
    return {**numbers, "worst_value": min(found["value_against_best_response"]), "exact": found}


class Evaluator:
    """The evaluations of a run. They share the engine with training and nothing else: no run changes by evaluating.

    Args:
        engine: What samples replies; its ``max_new_tokens`` is set for the time of an evaluation.

    Raises:
        ConfigError: As :func:`check_evaluations`.
    """

    def __init__(self, config: Config, engine: Any, chat: Chat, accelerator: Accelerator) -> None:
        self.engine, self.accelerator = engine, accelerator
        self.parallel = max(1, config.rollout.episodes // accelerator.num_processes)
        self._all = [(one, one.starts(), EpisodeRunner(one.rollout)) for one in evaluations(config)]
        self.chat, self.tree = chat, game_tree(config)

    def due(self, step: int) -> bool:
        """Whether an evaluation is to be done during training, after ``step`` steps in all."""
        return any(one.wanted(step, "during") for one, _, _ in self._all)

    def run(self, step: int, phase: Phase) -> tuple[dict[str, Any], dict[str, float]]:
        """Plays what is wanted now, on every process its share.

        Returns:
            The main evaluation as :func:`score_by_seat` gives it, the others by name under ``extra``; and all their
            figures as metrics, ``eval/win_rate`` and so on. Both are the same on all processes.
        """
        results = {
            one.name: self._play(one, starts, runner, step)
            for one, starts, runner in self._all
            if one.wanted(step, phase)
        }
        metrics = {f"{name}/{key}": value for name, result in results.items() for key, value in numbers_of(result)}
        summary = results.pop(MAIN, None) or score_by_seat([])
        return (summary | {"extra": results} if results else summary), metrics

    def _play(self, one: Evaluation, starts: list[Start], runner: EpisodeRunner, step: int) -> dict[str, Any]:
        player = ModelPlayer(self.engine, self.chat, one.temperature)
        with replies_of(self.engine, one.rollout.max_new_tokens):
            episodes = play(runner, player, starts, self.accelerator, self.parallel)
        if one.details and self.accelerator.is_main_process:
            write_details(one.details / f"{one.name}_{step:06d}.jsonl", episodes, one.samples)
        result = result_of(one, episodes)
        if one.name == MAIN and self.tree:
            with self.accelerator.autocast():
                result |= exact_metrics(self.tree, self.engine.model, self.chat, one.temperature)
        return result


def numbers_of(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a result, as metrics take them."""
    for key, value in result.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)


def result_of(one: Evaluation, episodes: Sequence[Episode]) -> dict[str, Any]:
    """:func:`score_by_seat`, and for a data set how many and which of its tasks were solved."""
    game: Any = getattr(make_env(one.env).unwrapped, "game", None)
    result = score_by_seat(episodes, one.samples, getattr(game, "reward_range", None))
    return result | (task_metrics(episodes, one.samples) if getattr(game, "tasks", ()) else {})


@contextlib.contextmanager
def replies_of(engine: Any, max_new_tokens: int) -> Iterator[None]:
    """Lets the engine's replies be so long, for a while."""
    before, engine.max_new_tokens = engine.max_new_tokens, max_new_tokens
    try:
        yield
    finally:
        engine.max_new_tokens = before


def play(
    runner: EpisodeRunner,
    player: Player,
    starts: Sequence[Start],
    accelerator: Accelerator,
    parallel: int,
    seed: int = 0,
    bar: bool = False,
) -> list[Episode]:
    """One episode a start, every process its share; all of them, in the order of ``starts``, on every process.

    The randomness of replies is fixed by ``seed`` and, for a model, the process; for a scripted player, the start's
    number. A model's own generator is not used: evaluating never changes a run.

    Args:
        parallel: Episodes side by side on each process; of other players than models, one at a time.
        bar: Show progress on stderr.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    if isinstance(player, ModelPlayer):
        player = replace(player, generator=evaluation_generator(seed, rank, accelerator.device))
    else:
        parallel = 1
    mine, played = range(len(starts))[rank::world], list[Episode]()
    with accelerator.autocast():
        for first in tqdm(range(0, len(mine), parallel), unit="batch", disable=not bar or None):
            part = mine[first : first + parallel]
            rngs = [np.random.default_rng([seed, number]) for number in part]
            games = runner.play([starts[number] for number in part], [[player]] * len(part), rngs)
            played += [episode for (episode,) in games]
    return _in_order(played, len(starts), world)


def _in_order(played: list[Episode], n: int, world: int) -> list[Episode]:
    """The episodes of all processes, of which each played every ``world``-th."""
    numbers = [number for rank in range(world) for number in range(n)[rank::world]]
    gathered: list[Episode] = gather_object(played)
    return [episode for _, episode in sorted(zip(numbers, gathered, strict=True), key=lambda pair: pair[0])]


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
