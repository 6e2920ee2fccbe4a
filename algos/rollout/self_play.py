"""PettingZoo environments: every seat is open, and each seat's side of a game is an episode."""

from __future__ import annotations

from typing import Any

from algos.data.episodes import Turn
from algos.rollout.environments import make_aec
from algos.rollout.playing import GameRunner, RunningGame


class RunningAEC(RunningGame):
    """One running game of a PettingZoo environment."""

    def _begin(self, first: None) -> None:
        self._show()

    def _step(self, turn: Turn) -> None:
        self.env.step(turn.reply)
        self._show()

    def _cut(self) -> None:
        for agent, conversation in zip(self.env.possible_agents, self.conversations, strict=True):
            if agent != self.env.agent_selection:  # its rewards would have been shown with its next turn
                self._pay(conversation.episode.turns, self.env._cumulative_rewards[agent], self.env.infos[agent])
        super()._cut()

    def _show(self) -> None:
        """Shows the situation to the agent that is to reply; at the end pays and dismisses every agent."""
        env = self.env
        while env.agents:
            self.seat = env.possible_agents.index(env.agent_selection)
            observation, reward, terminated, truncated, info = env.last()
            self._pay(self.conversation.episode.turns, reward, info)
            if not (terminated or truncated):
                self.conversation.observe(str(observation), info)
                return
            self.conversation.finish(str(observation), info, terminated)
            env.step(None)
        self.done = True

    @staticmethod
    def _pay(turns: list[Turn], reward: float, info: dict[str, Any]) -> None:
        """Rewards since the agent's last reply belong to that reply; without a reply there is nothing to credit."""
        if turns:
            turns[-1].reward += float(reward)
            turns[-1].parse = info.get("parse", "ok")


class SelfPlay(GameRunner):
    """Plays PettingZoo games, in which every seat is held by one of the given players."""

    make, running = staticmethod(make_aec), RunningAEC
