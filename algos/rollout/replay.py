"""Failure replay: starts that went badly are played again; only an environment and a seed are kept, no replies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from algos.config.schema import ReplaySection
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start, pick


class Replay:
    """The buffer of failed starts.

    The score of an episode is 1 if it was won or solved. Otherwise it is (return - lowest) / (highest - lowest) / 2, in
    [0, 1/2], over all returns seen in its environment. The badness of a start is 1 minus the mean score of its episodes
    in one call of :meth:`record` (in GRPO, of its group). The probability to draw a start is proportional to it.

    A start enters if its mean score is at most ``low_score``. Playing it again updates its badness but not its age: the
    oldest starts make room for new ones, also those that cannot be won. A start whose episodes in a call are all won
    or solved is mastered and removed.

    The state depends only on the recorded episodes, so processes that record the same episodes need no communication.
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
        """The badness of a start in the buffer, in (0, 1]."""
        return self._badness[start]

    def draw(self, rng: np.random.Generator, exclude: Collection[Start] = ()) -> Start | None:
        """A random start by badness; None if all are excluded. Draws one number from ``rng``."""
        at = rng.random()
        choices = dict(self._badness)
        for start in exclude:
            choices.pop(start, None)
        return list(choices)[pick(list(choices.values()), at)] if choices else None

    def record(self, episodes: Sequence[Episode]) -> None:
        """Records a step's episodes, fresh and replayed; episodes without a start are ignored."""
        if not self.section.share:
            return
        by_start: dict[Start, list[Episode]] = {}
        for episode in episodes:
            if (start := episode.start) is not None:
                by_start.setdefault(start, []).append(episode)
                low, high = self._returns.get(start.env, (np.inf, -np.inf))
                total = float(episode.total_reward)
                self._returns[start.env] = min(low, total), max(high, total)
        for start, played in by_start.items():
            score = float(np.mean([self._score(start.env, episode) for episode in played]))
            if all(episode.success for episode in played):
                self.mastered += self._badness.pop(start, None) is not None
            elif start in self._badness or score <= self.section.low_score:
                self._badness[start] = 1.0 - score
        self._trim()

    def metrics(self) -> dict[str, float]:
        """Starts in the buffer, their mean badness, and starts mastered since the run began; empty without replay."""
        if not self.section.share:
            return {}
        mean = float(np.mean(list(self._badness.values()) or [0.0]))
        return {"replay/size": float(len(self)), "replay/badness": mean, "replay/mastered": float(self.mastered)}

    def state_dict(self) -> dict[str, Any]:
        """The state as numbers and text."""
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
