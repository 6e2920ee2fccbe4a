"""A curriculum: stages over environments and their settings, each left once enough of its episodes succeed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from algos.config.schema import CurriculumSection, EnvSection, StageEnv
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start, pick
from algos.errors import ConfigError
from algos.rollout.replay import Replay


class Curriculum:
    """Where a run stands in its stages.

    The rate of a stage is the share of its newest ``window`` fresh episodes that were won or solved. It is looked at
    after each :meth:`record`, because all episodes of a step start in the same stage. A stage is never returned to,
    and the last one stays.

    Processes need to exchange nothing if each records the same gathered episodes in the same order: the state is a
    function of those alone.

    Attributes:
        stage: Index of the present stage.
    """

    def __init__(self, section: CurriculumSection, env: EnvSection) -> None:
        """Starts in the first stage of ``section``; if there are none, ``env`` is played all along.

        Raises:
            ConfigError: A setting of an environment is of a kind that :class:`EnvKey` cannot hold.
        """
        self.stages = section.stages
        self.stage = 0
        stages: list[list[StageEnv]] = [stage.envs for stage in section.stages]
        self._envs = [[EnvKey.of(choice) for choice in envs] for envs in stages] or [[EnvKey.of(env)]]
        self._weights = [[choice.weight for choice in envs] for envs in stages] or [[1.0]]
        self._enter(0)

    @property
    def envs(self) -> list[EnvKey]:
        """Every environment of every stage, each once."""
        return list(dict.fromkeys(env for envs in self._envs for env in envs))

    def draw(self, rng: np.random.Generator) -> EnvKey:
        """An environment of the present stage, by weight. Takes one value of ``rng``."""
        return self._envs[self.stage][pick(self._weights[self.stage], rng.random())]

    def record(self, episodes: Sequence[Episode]) -> None:
        """Takes note of a step's episodes, and moves on if the stage has been learnt; replayed ones do not count."""
        if not self.stages:
            return
        fresh = [episode.success for episode in episodes if not episode.replayed]
        self._window.extend(fresh)
        self._episodes += len(fresh)
        stage = self.stages[self.stage]
        if stage.threshold is None or self.stage + 1 == len(self.stages):
            return
        enough = len(self._window) == stage.window and self._episodes >= stage.min_episodes
        if enough and sum(self._window) / stage.window >= stage.threshold:
            self._enter(self.stage + 1)

    def metrics(self) -> dict[str, float]:
        """The stage's index and, once it has episodes, the success rate of its window; none without stages."""
        if not self.stages:
            return {}
        metrics = {"curriculum/stage": float(self.stage)}
        if self._window:
            metrics["curriculum/success_rate"] = sum(self._window) / len(self._window)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"stage": self.stage, "episodes": self._episodes, "window": list(self._window)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was.

        Raises:
            ConfigError: The settings have fewer stages than the run had got to.
        """
        if state["stage"] >= len(self._envs):
            raise ConfigError(
                f"curriculum.stages: the checkpoint is in stage {state['stage'] + 1}, the settings have "
                f"{len(self.stages)}: resume with the stages that the run was started with"
            )
        self._enter(state["stage"])
        self._window.extend(state["window"])
        self._episodes = state["episodes"]

    def _enter(self, stage: int) -> None:
        self.stage, self._episodes = stage, 0
        self._window: deque[bool] = deque(maxlen=self.stages[stage].window if self.stages else None)


def draw_starts(
    n: int, curriculum: Curriculum, replay: Replay, rng: np.random.Generator, first_seed: int
) -> list[Start]:
    """The starts of a step: with probability ``replay.share`` one of the buffer, else a fresh one.

    The fresh start at place i has the seed ``first_seed + i``. No start of the buffer is drawn twice; where the buffer
    has no other, the start is fresh. What the buffer holds does not change how many values of ``rng`` are taken, so a
    start more or less in it never moves the other starts. ``start in replay`` tells the replayed ones.
    """
    starts: list[Start] = []
    drawn: set[Start] = set()
    for i in range(n):
        start = Start(curriculum.draw(rng), first_seed + i)
        if rng.random() < replay.section.share:
            start = replay.draw(rng, drawn) or start
            drawn.add(start)
        starts.append(start)
    return starts
