"""Failure replay: starts that went badly are played again, more often the worse they went.

Only the start is kept, an environment and a seed; what is trained is always sampled anew by the present policy.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from algos.config.schema import ReplaySection
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start, pick


class Replay:
    """The buffer of failed starts.

    An episode's score is 1 if it was won or solved. Otherwise it is half of where its return lies between the lowest
    and the highest return met so far in its environment, 0 to 1/2: a draw is better than a loss, a nearly solved start
    better than a hopeless one. A start's badness is 1 minus the mean score of its episodes in one call of
    :meth:`record` (in GRPO, its group's), and its chance of being drawn is proportional to that.

    A start enters if its mean score is at most ``low_score``. Each time it is played again its badness is renewed,
    and once all its episodes of a call are won or solved, it is mastered and leaves. It keeps its place in the queue
    when renewed, so one that cannot be won leaves in the end too, pushed out by newer ones.

    Processes need to exchange nothing if each records the same gathered episodes in the same order: the state is a
    function of those alone.
    """

    def __init__(self, section: ReplaySection) -> None:
        self.section = section
        self.mastered = 0
        self._badness: dict[Start, float] = {}  # oldest first
        self._returns: dict[EnvKey, tuple[float, float]] = {}  # lowest, highest

    def __len__(self) -> int:
        return len(self._badness)

    def __contains__(self, start: object) -> bool:
        return start in self._badness

    def badness(self, start: Start) -> float:
        """How badly a start of the buffer went when last played, in (0, 1]."""
        return self._badness[start]

    def draw(self, rng: np.random.Generator, exclude: Collection[Start] = ()) -> Start | None:
        """A start, likelier the worse it went; None if there is none but those excluded. Takes one value of ``rng``."""
        at = rng.random()
        choices = dict(self._badness)
        for start in exclude:
            choices.pop(start, None)
        return list(choices)[pick(list(choices.values()), at)] if choices else None

    def record(self, episodes: Sequence[Episode]) -> None:
        """Takes note of a step's episodes, fresh and replayed; those without a start do not concern the buffer."""
        if not self.section.share:
            return
        by_task: dict[Start, list[Episode]] = {}
        for episode in episodes:
            if (start := episode.start) is not None:
                by_task.setdefault(start, []).append(episode)
                low, high = self._returns.get(start.env, (np.inf, -np.inf))
                total = float(episode.total_reward)
                self._returns[start.env] = min(low, total), max(high, total)
        for start, played in by_task.items():
            score = float(np.mean([self._score(start.env, episode) for episode in played]))
            if all(episode.success for episode in played):
                self.mastered += self._badness.pop(start, None) is not None
            elif start in self._badness or score <= self.section.low_score:
                self._badness[start] = 1.0 - score
        self._trim()

    def metrics(self) -> dict[str, float]:
        """Tasks kept, their mean badness, and how many have been mastered since the run began; none without replay."""
        if not self.section.share:
            return {}
        mean = float(np.mean(list(self._badness.values()) or [0.0]))
        return {"replay/size": float(len(self)), "replay/badness": mean, "replay/mastered": float(self.mastered)}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return {
            "starts": [(start.env.id, start.env.settings, start.seed, bad) for start, bad in self._badness.items()],
            "returns": [(env.id, env.settings, low, high) for env, (low, high) in self._returns.items()],
            "mastered": self.mastered,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._badness = {Start(EnvKey(name, text), seed): bad for name, text, seed, bad in state["starts"]}
        self._returns = {EnvKey(name, text): (low, high) for name, text, low, high in state["returns"]}
        self.mastered = state["mastered"]
        self._trim()

    def _score(self, env: EnvKey, episode: Episode) -> float:
        if episode.success:
            return 1.0
        low, high = self._returns[env]
        return (episode.total_reward - low) / (high - low) / 2 if high > low else 0.0

    def _trim(self) -> None:
        for start in list(self._badness)[: max(len(self) - self.section.size, 0)]:
            del self._badness[start]
