"""Self-play: every seat of a PettingZoo game is played by a policy, and each seat's side of it is an episode."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from algos.config.schema import Config
from algos.data.episodes import Episode, Turn
from algos.data.tasks import EnvSpec, Task
from algos.engines.base import Engine, Sample
from algos.model.chat import Chat
from algos.rollout.conversation import Context, Talk
from algos.rollout.environments import make_aec


class Table:
    """One running game. ``players`` says who plays which seat; -1 stands for all seats that it does not name."""

    def __init__(self, env: Any, chat: Chat, context: Context, task: Task, group: int, players: dict[int, Engine]):
        self.env = env
        env.reset(seed=task.seed)
        agents: list[str] = list(env.possible_agents)
        self.engines = {agent: players.get(seat, players[-1]) for seat, agent in enumerate(agents)}
        self.talks = {
            agent: Talk(chat, context, Episode(task.env.id, task.seed, group, player=seat, task=task))
            for seat, agent in enumerate(agents)
        }
        self.done = False
        self._turn()

    @property
    def talk(self) -> Talk:
        """The conversation of the agent whose turn it is."""
        return self.talks[self.env.agent_selection]

    @property
    def engine(self) -> Engine:
        """Who plays for the agent whose turn it is."""
        return self.engines[self.env.agent_selection]

    def reply(self, sample: Sample) -> None:
        """Plays a sampled reply of the agent whose turn it is."""
        turn = self.talk.say(sample, self.engine.version)
        self.env.step(turn.reply)
        self._turn()

    def cut(self) -> None:
        """Ends the game at a limit of ours."""
        self.done = True
        for agent, talk in self.talks.items():
            if agent != self.env.agent_selection:  # it was to be told with its next turn
                self._pay(talk.episode.turns, self.env._cumulative_rewards[agent], self.env.infos[agent])
            talk.finish(talk.observation, talk.info, terminated=False)

    def _turn(self) -> None:
        """Shows the situation to who is to move; at the end pays and dismisses every agent."""
        env = self.env
        while env.agents:
            agent = env.agent_selection
            observation, reward, terminated, truncated, info = env.last()
            talk = self.talks[agent]
            self._pay(talk.episode.turns, reward, info)
            if not (terminated or truncated):
                talk.hear(str(observation), info)
                return
            talk.finish(str(observation), info, terminated)
            env.step(None)
        self.done = True

    @staticmethod
    def _pay(turns: list[Turn], reward: float, info: dict[str, Any]) -> None:
        """What came since the agent's last reply belongs to it; who never replied has earned nothing by acting."""
        if turns:
            turns[-1].reward += float(reward)
            turns[-1].parse = info.get("parse", "ok")


class SelfPlay:
    """Plays games in which policies hold all seats; contexts and limits as for ``Rollout``.

    ``max_turns`` counts each player's own replies.
    """

    def __init__(self, config: Config, chat: Chat) -> None:
        self.chat = chat
        self.context: Context = config.rollout.context
        self.max_turns, self.max_prompt_tokens = config.rollout.max_turns, config.rollout.max_prompt_tokens
        self._made: defaultdict[EnvSpec, list[Any]] = defaultdict(list)

    def seats(self, env: EnvSpec) -> int:
        """How many seats a game has."""
        made = self._made[env]
        if not made:
            made.append(make_aec(env))
        return len(made[0].possible_agents)

    def play(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        temperature: float,
        generator: torch.Generator,
        group_size: int = 1,
        stand_ins: Mapping[tuple[int, int], Engine] | None = None,
    ) -> list[list[Episode]]:
        """Plays one game a task, all side by side.

        Args:
            engine: Who plays every seat,
            stand_ins: but for these: (number of the game, seat) -> engine.

        Returns:
            For each game, one episode a seat; that of a seat that never moved has no turns.
        """
        used: Counter[EnvSpec] = Counter()
        tables = []
        players: defaultdict[int, dict[int, Engine]] = defaultdict(lambda: {-1: engine})
        for (game, seat), other in (stand_ins or {}).items():
            players[game][seat] = other
        for number, task in enumerate(tasks):
            made = self._made[task.env]
            if used[task.env] == len(made):
                made.append(make_aec(task.env))
            env = made[used[task.env]]
            used[task.env] += 1
            tables.append(Table(env, self.chat, self.context, task, number // group_size, players[number]))
        self._finish(tables, temperature, generator)
        return [[talk.episode for talk in table.talks.values()] for table in tables]

    def _finish(self, tables: list[Table], temperature: float, generator: torch.Generator) -> None:
        while True:
            for table in tables:
                if not table.done:
                    talk = table.talk
                    too_long = len(talk.prompt_ids) > self.max_prompt_tokens
                    if too_long or len(talk.episode.turns) >= self.max_turns:
                        table.cut()
            live = [table for table in tables if not table.done]
            if not live:
                return
            by_engine: defaultdict[int, list[Table]] = defaultdict(list)
            for table in live:
                by_engine[id(table.engine)].append(table)
            for mine in by_engine.values():
                engine = mine[0].engine
                samples = engine.generate([table.talk.prompt_ids for table in mine], temperature, generator)
                for table, sample in zip(mine, samples, strict=True):
                    table.reply(sample)
