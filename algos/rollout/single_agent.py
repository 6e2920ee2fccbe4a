"""Gymnasium environments: one seat is ours."""

from __future__ import annotations

from typing import Any

from algos.data.episodes import Turn
from algos.rollout.environments import make_env
from algos.rollout.playing import GameRunner, RunningGame


class RunningEpisode(RunningGame):
    """One running episode of a Gymnasium environment."""

    def _begin(self, first: tuple[str, dict[str, Any]]) -> None:
        observation, info = first
        self.conversation.episode.player = info.get("player", 0)
        self.conversation.observe(observation, info)
        self.done = "outcome" in info  # the opponent can end a game before our first turn: nothing to learn from it
        if self.done:
            self.conversation.finish(observation, info, terminated=True)

    def _step(self, turn: Turn) -> None:
        observation, reward, terminated, truncated, info = self.env.step(turn.reply)
        turn.reward, turn.parse = float(reward), info.get("parse", "ok")
        self.done = bool(terminated or truncated)
        if not terminated:
            self.conversation.observe(observation, info)
        if self.done:
            self.conversation.finish(observation, info, bool(terminated))


class EpisodeRunner(GameRunner):
    """Plays episodes of Gymnasium environments, whose opponents are part of the environment."""

    make, running = staticmethod(make_env), RunningEpisode
