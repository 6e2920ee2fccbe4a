"""Plays games whose seats are held by players of any kind: the one loop of training, evaluation and tournaments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import torch
from numpy.random import Generator, default_rng

from algos.config.schema import RolloutSection
from algos.data.episodes import Episode, Turn
from algos.data.tasks import EnvKey, Start
from algos.engines.base import Engine, Sample
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.rollout.conversation import Conversation
from llm_gym.match import Match
from llm_gym.opponents import OpponentFn, make_player
from llm_gym.parsing import format_action


@dataclass(frozen=True)
class ModelPlayer:
    """A model that replies: the trained one, an earlier version of it, or any other. Equal players share a batch."""

    engine: Engine
    chat: Chat
    temperature: float = 1.0
    generator: torch.Generator = field(default_factory=torch.Generator)


Player = ModelPlayer | OpponentFn | str
"""Who holds a seat; a string names a scripted player (see :func:`scripted`)."""


def scripted(name: str, env: Any, rng: Generator) -> OpponentFn:
    """The replies of the scripted player ``name`` in ``env``; ``uniform`` is random play, ``empty`` replies "".

    Raises:
        ConfigError: There is no such player, it cannot play this game, or the environment is not of llm_gym.
    """
    match = getattr(env.unwrapped, "match", None)
    if not isinstance(match, Match):
        raise ConfigError(f"{name}: scripted players only play environments of llm_gym")
    if name == "empty":
        return lambda observation, info: ""
    try:
        player = make_player("random" if name == "uniform" else name, match.game)
    except (ValueError, gymnasium.error.Error) as error:
        raise ConfigError(str(error).replace("opponent", "policy", 1)) from None
    return lambda observation, info: format_action(player.choose(match.game, rng), match.formats[info["player"]])


class RunningGame(ABC):
    """One running game in an environment of its own. A subclass knows the environment's interface.

    Args:
        players: Who holds each seat.
        rollout: The context of prompts, and limits for models; ``max_turns`` counts a seat's own replies.
        number: Recorded as the group of the episodes.
        rng: The randomness of scripted players.
    """

    def __init__(
        self, env: Any, start: Start, players: Sequence[Player], rollout: RolloutSection, number: int, rng: Generator
    ) -> None:
        self.env, self.rollout, self.done = env, rollout, False
        self.seat = 0  # the seat that replies next
        first = env.reset(seed=start.seed)
        self.players = [scripted(player, env, rng) if isinstance(player, str) else player for player in players]
        self.conversations = []
        for seat, player in enumerate(self.players):
            episode = Episode(start.env.id, start.seed, number, player=seat, start=start)
            self.conversations.append(Conversation(getattr(player, "chat", None), rollout.context, episode))
        self._begin(first)

    @property
    def conversation(self) -> Conversation:
        """The conversation of the seat that replies next."""
        return self.conversations[self.seat]

    def waits_for(self) -> ModelPlayer | None:
        """The model that replies next, after all other players before it have replied; None: the game is over."""
        limits = self.rollout
        while not self.done:
            player, conversation = self.players[self.seat], self.conversation
            prompt, turns = conversation.prompt_ids, conversation.episode.turns
            if not isinstance(player, ModelPlayer):
                self._step(conversation.reply_with(player(conversation.observation, conversation.info)))
            elif len(prompt) <= limits.max_prompt_tokens and len(turns) < limits.max_turns:
                return player
            else:
                self._cut()
        return None

    def reply(self, sample: Sample, version: int) -> None:
        """Plays a sampled reply of the model that the game waits for."""
        self._step(self.conversation.reply(sample, version))

    @abstractmethod
    def _begin(self, first: Any) -> None:
        """Shows the players what ``env.reset`` returned."""

    @abstractmethod
    def _step(self, turn: Turn) -> None:
        """Plays a reply, records its reward, and shows the next player the situation."""

    def _cut(self) -> None:
        """Ends the game at a limit of ``rollout``: its episodes are truncated."""
        self.done = True
        for conversation in self.conversations:
            conversation.finish(conversation.observation, conversation.info, terminated=False)


def play(games: Sequence[RunningGame]) -> None:
    """Plays games to the end, side by side.

    A round is one batched call of each model: it replies once in each game that waits for it. The order of the calls is
    that of the first game that waits for each model, so a seed gives the same samples again.
    """
    while True:
        waiting: defaultdict[ModelPlayer, list[RunningGame]] = defaultdict(list)
        for game in games:
            if player := game.waits_for():
                waiting[player].append(game)
        if not waiting:
            return
        for player, own in waiting.items():
            prompts = [game.conversation.prompt_ids for game in own]
            samples = player.engine.generate(prompts, player.temperature, player.generator)
            for game, sample in zip(own, samples, strict=True):
                game.reply(sample, player.engine.version)


class GameRunner:
    """Plays games side by side, with the context and limits of ``rollout``; keeps the environments that it makes."""

    make: Callable[[EnvKey], Any]
    running: type[RunningGame]

    def __init__(self, rollout: RolloutSection) -> None:
        self.rollout = rollout
        self._made: defaultdict[EnvKey, list[Any]] = defaultdict(list)

    def _env(self, key: EnvKey, number: int) -> Any:
        made = self._made[key]
        if number == len(made):
            made.append(self.make(key))
        return made[number]

    def seats(self, key: EnvKey) -> int:
        """How many seats of a game are held by players; a Gymnasium environment has one."""
        return len(getattr(self._env(key, 0), "possible_agents", ("agent",)))

    def play(
        self, starts: Sequence[Start], players: Sequence[Sequence[Player]], rngs: Sequence[Generator] | None = None
    ) -> list[list[Episode]]:
        """Plays one game a start.

        Args:
            players: For each game, who holds each seat.
            rngs: For each game, the randomness of its scripted players; None: fixed by the start's seed.

        Returns:
            For each game, one episode a seat; that of a seat that never replied has no turns.
        """
        rngs = rngs or [default_rng(start.seed) for start in starts]
        used: Counter[EnvKey] = Counter()
        games = []
        for number, (start, held, rng) in enumerate(zip(starts, players, rngs, strict=True)):
            env = self._env(start.env, used[start.env])
            used[start.env] += 1
            games.append(self.running(env, start, held, self.rollout, number, rng))
        play(games)
        return [[conversation.episode for conversation in game.conversations] for game in games]
