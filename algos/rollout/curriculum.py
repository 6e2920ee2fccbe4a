"""A curriculum: stages of environments and settings; a stage ends when enough of its episodes succeed."""

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
    """The stages of a run, and the index ``stage`` of the current one.

    The success rate of a stage is the share of its newest ``window`` fresh episodes that were won or solved. It is
    checked after each :meth:`record`, because all episodes of a step start in the same stage. There is no way back to
    an earlier stage, and the last stage does not end.

    The state depends only on the recorded episodes, so processes that record the same episodes need no communication.
    """

    def __init__(self, section: CurriculumSection, env: EnvSection) -> None:
        """Begins with the first stage of ``section``; without stages, ``env`` is the only environment."""
        self.stages = section.stages
        self.stage = 0
        stages: list[list[StageEnv]] = [stage.envs for stage in section.stages]
        self._envs = [[EnvKey.of(choice) for choice in envs] for envs in stages] or [[EnvKey.of(env)]]
        self._weights = [[choice.weight for choice in envs] for envs in stages] or [[1.0]]
        self._enter(0)

    @property
    def envs(self) -> list[EnvKey]:
        """All environments of all stages, without repetition."""
        return list(dict.fromkeys(env for envs in self._envs for env in envs))

    def draw(self, rng: np.random.Generator) -> EnvKey:
        """A random environment of the current stage, by weight. Draws one number from ``rng``."""
        return self._envs[self.stage][pick(self._weights[self.stage], rng.random())]

    def record(self, episodes: Sequence[Episode]) -> None:
        """Records a step's episodes, without replayed ones, and begins the next stage if this one is learned."""
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
        """The index of the stage and the success rate of its window, once it has episodes; empty without stages."""
        if not self.stages:
            return {}
        metrics = {"curriculum/stage": float(self.stage)}
        if self._window:
            metrics["curriculum/success_rate"] = sum(self._window) / len(self._window)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The state as numbers."""
        return {"stage": self.stage, "episodes": self._episodes, "window": list(self._window)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state``; raises ConfigError where the settings have fewer stages than the run has reached."""
        if state["stage"] >= len(self._envs):
            raise ConfigError(
                f"curriculum.stages: the checkpoint is in stage {state['stage'] + 1}, but the settings have "
                f"{len(self.stages)} stages: resume with the stages that the run was started with"
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
    """The starts of a step: each with probability ``replay.share`` from the buffer, else fresh.

    The fresh start at index i has the seed ``first_seed + i``. No start of the buffer is drawn twice; if none is left,
    the start is fresh. The count of numbers drawn from ``rng`` does not depend on the buffer, so a change of the buffer
    leaves the fresh starts as they are. ``start in replay`` is true for those from the buffer.
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
