"""Self-play: every seat of a PettingZoo game is played by a policy, and each seat's side of it is an episode."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from algos.config.schema import Config
from algos.data.episodes import Episode, Turn
from algos.data.tasks import EnvKey, Start
from algos.engines.base import Engine, Sample
from algos.model.chat import Chat
from algos.rollout.conversation import Context, Conversation
from algos.rollout.environments import make_aec


class RunningGame:
    """One running game. ``players`` says who plays which seat; -1 stands for all seats that it does not name."""

    def __init__(self, env: Any, chat: Chat, context: Context, start: Start, group: int, players: dict[int, Engine]):
        self.env = env
        env.reset(seed=start.seed)
        agents: list[str] = list(env.possible_agents)
        self.engines = {agent: players.get(seat, players[-1]) for seat, agent in enumerate(agents)}
        self.conversations = {
            agent: Conversation(chat, context, Episode(start.env.id, start.seed, group, player=seat, start=start))
            for seat, agent in enumerate(agents)
        }
        self.done = False
        self._turn()

    @property
    def conversation(self) -> Conversation:
        """The conversation of the agent whose turn it is."""
        return self.conversations[self.env.agent_selection]

    @property
    def engine(self) -> Engine:
        """Who plays for the agent whose turn it is."""
        return self.engines[self.env.agent_selection]

    def reply(self, sample: Sample) -> None:
        """Plays a sampled reply of the agent whose turn it is."""
        turn = self.conversation.reply(sample, self.engine.version)
        self.env.step(turn.reply)
        self._turn()

    def cut(self) -> None:
        """Ends the game at a limit of ours."""
        self.done = True
        for agent, conversation in self.conversations.items():
            if agent != self.env.agent_selection:  # it was to be told with its next turn
                self._pay(conversation.episode.turns, self.env._cumulative_rewards[agent], self.env.infos[agent])
            conversation.finish(conversation.observation, conversation.info, terminated=False)

    def _turn(self) -> None:
        """Shows the situation to who is to move; at the end pays and dismisses every agent."""
        env = self.env
        while env.agents:
            agent = env.agent_selection
            observation, reward, terminated, truncated, info = env.last()
            conversation = self.conversations[agent]
            self._pay(conversation.episode.turns, reward, info)
            if not (terminated or truncated):
                conversation.observe(str(observation), info)
                return
            conversation.finish(str(observation), info, terminated)
            env.step(None)
        self.done = True

    @staticmethod
    def _pay(turns: list[Turn], reward: float, info: dict[str, Any]) -> None:
        """What came since the agent's last reply belongs to it; who never replied has earned nothing by acting."""
        if turns:
            turns[-1].reward += float(reward)
            turns[-1].parse = info.get("parse", "ok")


class SelfPlay:
    """Plays games in which policies hold all seats; contexts and limits as for ``EpisodeRunner``.

    ``max_turns`` counts each player's own replies.
    """

    def __init__(self, config: Config, chat: Chat) -> None:
        self.chat = chat
        self.context: Context = config.rollout.context
        self.max_turns, self.max_prompt_tokens = config.rollout.max_turns, config.rollout.max_prompt_tokens
        self._made: defaultdict[EnvKey, list[Any]] = defaultdict(list)

    def seats(self, env: EnvKey) -> int:
        """How many seats a game has."""
        made = self._made[env]
        if not made:
            made.append(make_aec(env))
        return len(made[0].possible_agents)

    def play(
        self,
        starts: Sequence[Start],
        engine: Engine,
        temperature: float,
        generator: torch.Generator,
        group_size: int = 1,
        opponents_by_seat: Mapping[tuple[int, int], Engine] | None = None,
    ) -> list[list[Episode]]:
        """Plays one game a start, all side by side.

        Args:
            engine: Who plays every seat,
            opponents_by_seat: but for these: (number of the game, seat) -> engine.

        Returns:
            For each game, one episode a seat; that of a seat that never moved has no turns.
        """
        used: Counter[EnvKey] = Counter()
        games = []
        players: defaultdict[int, dict[int, Engine]] = defaultdict(lambda: {-1: engine})
        for (game, seat), other in (opponents_by_seat or {}).items():
            players[game][seat] = other
        for number, start in enumerate(starts):
            made = self._made[start.env]
            if used[start.env] == len(made):
                made.append(make_aec(start.env))
            env = made[used[start.env]]
            used[start.env] += 1
            games.append(RunningGame(env, self.chat, self.context, start, number // group_size, players[number]))
        self._finish(games, temperature, generator)
        return [[conversation.episode for conversation in running.conversations.values()] for running in games]

    def _finish(self, games: list[RunningGame], temperature: float, generator: torch.Generator) -> None:
        while True:
            for running in games:
                if not running.done:
                    conversation = running.conversation
                    too_long = len(conversation.prompt_ids) > self.max_prompt_tokens
                    if too_long or len(conversation.episode.turns) >= self.max_turns:
                        running.cut()
            live = [running for running in games if not running.done]
            if not live:
                return
            by_engine: defaultdict[int, list[RunningGame]] = defaultdict(list)
            for running in live:
                by_engine[id(running.engine)].append(running)
            for mine in by_engine.values():
                engine = mine[0].engine
                samples = engine.generate([running.conversation.prompt_ids for running in mine], temperature, generator)
                for running, sample in zip(mine, samples, strict=True):
                    running.reply(sample)
