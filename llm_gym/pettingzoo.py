"""The PettingZoo environment of a game: every seat is open. :func:`llm_gym.aec` imports this module when called.

Raises:
    gymnasium.error.DependencyNotInstalled: On import, where PettingZoo is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from gymnasium.utils import seeding

from llm_gym.env import TextEnv
from llm_gym.match import GameSpec, Match, make_game
from llm_gym.spaces import Unicode

try:
    from pettingzoo import AECEnv
except ModuleNotFoundError as error:
    if error.name != "pettingzoo":
        raise
    raise DependencyNotInstalled('PettingZoo is not installed: pip install "llm-gym[pettingzoo]"') from error


class Text(str):
    """An observation. PettingZoo's ``api_test`` asks each for its ``dtype``, which is that of its space: None."""

    __slots__ = ()
    dtype = None


class TextAECEnv(AECEnv[str, str, str]):
    """A game of text whose players, ``player_0``, ``player_1``, ..., take turns as the rules say.

    Observation and action are strings (:class:`llm_gym.spaces.Unicode`): the situation now, and the whole reply.
    ``infos[agent]`` is as in :class:`llm_gym.TextEnv`. It is updated when the agent's turn comes, and for all agents
    when the game ends. Its ``reward_terms`` are the parts of the reward that :meth:`last` returns.

    Args:
        name: What the environment is called. The other arguments are those of :class:`llm_gym.TextEnv`.

    Raises:
        ValueError: A setting is wrong, or the game has one player only.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "is_parallelizable": False}

    def __init__(
        self,
        text_game: GameSpec,
        *,
        action_format: str | Sequence[str] | None = None,
        on_invalid: str = "lose",
        show_legal: bool = False,
        random_opening: int = 0,
        render_mode: str | None = None,
        name: str = "text",
        **game_settings: Any,
    ) -> None:
        super().__init__()
        game = make_game(text_game, **game_settings)
        if game.num_players < 2:
            raise ValueError(f"aec needs a game with two or more players; {name} has one: use gymnasium.make")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be ansi or None, not {render_mode!r}")
        self.match = Match(game, action_format, on_invalid, show_legal, random_opening)
        self.metadata = {**self.metadata, "name": name}
        self.render_mode = render_mode
        self.reward_range = self.match.reward_range
        self.possible_agents = [f"player_{seat}" for seat in range(game.num_players)]
        self.agents: list[str] = []
        self.observation_spaces = {agent: Unicode() for agent in self.possible_agents}
        self.action_spaces = {agent: Unicode() for agent in self.possible_agents}
        self._seats = {agent: seat for seat, agent in enumerate(self.possible_agents)}
        self._rng: Any = None

    def __str__(self) -> str:
        return str(self.metadata["name"])

    def observation_space(self, agent: str) -> Unicode:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Unicode:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Starts a game. A seed fixes all randomness in it."""
        if seed is not None or self._rng is None:
            self._rng, _ = seeding.np_random(seed)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {
            agent: {"player": seat, "legal_actions": [], "parse": "ok", "messages": []}
            for agent, seat in self._seats.items()
        }
        self._skip_agent_selection = None  # PettingZoo's note of whose turn it was when agents began to leave
        self._terms: dict[str, dict[str, float]] = {agent: {} for agent in self.agents}
        self._texts: dict[str, str] = {}  # the latest observation of each agent that was shown one
        self.match.reset(self._rng, options)
        self._turn()

    def step(self, action: str | None) -> None:
        """Plays the whole reply of the agent whose turn it is; None from an agent whose game is over.

        Raises:
            ResetNeeded: The game is over and every agent has left, or none was started.
            TypeError: ``action`` is not a string.
        """
        if not self.agents:
            raise ResetNeeded("the game is over, or none was started: call reset() before step()")
        agent, match = self.agent_selection, self.match
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        match.apply_reply(self._seats[agent], action)  # type: ignore[arg-type]
        self._cumulative_rewards[agent] = 0.0
        self._terms[agent] = {}
        for each, seat in self._seats.items():
            terms, sums = match.pop_reward_terms(seat), self._terms[each]
            self.rewards[each] = float(sum(terms.values()))
            self._terms[each] = {name: sums.get(name, 0.0) + terms.get(name, 0.0) for name in {**sums, **terms}}
        self._accumulate_rewards()
        self._turn()

    def _turn(self) -> None:
        """Shows the situation to the agent to move, or to all agents at the end."""
        player = self.match.current_player
        if player is None:
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.agents[player or 0]
        for agent in self.agents if player is None else [self.agent_selection]:
            first = agent not in self._texts
            self._texts[agent], self.infos[agent] = self.match.view(self._seats[agent], with_rules=first)
            if self._terms[agent]:
                self.infos[agent]["reward_terms"] = self._terms[agent]

    def observe(self, agent: str) -> str:
        if agent == self.agent_selection or self.terminations[agent]:
            return Text(self._texts[agent])
        return Text(self.match.game.observe(self._seats[agent]))

    def render(self) -> str | None:
        """The situation as the agent to move sees it, in render mode ``ansi``."""
        return self.match.game.observe(self._seats[self.agent_selection]) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Nothing to release."""


def make_aec(env_id: str, **settings: Any) -> TextAECEnv:
    """See :func:`llm_gym.aec`."""
    spec = gymnasium.spec(env_id)
    maker = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    if not (isinstance(maker, type) and issubclass(maker, TextEnv)):
        raise ValueError(f"aec needs the id of a text environment (llm_gym.TextEnv), not {env_id!r}")
    for name in ("opponent", "seat"):
        if name in settings:
            raise ValueError(f"aec has no {name}: every seat is open")
    kept = {name: value for name, value in spec.kwargs.items() if name not in ("opponent", "seat")}
    return TextAECEnv(**{**kept, **settings}, name=spec.name)
