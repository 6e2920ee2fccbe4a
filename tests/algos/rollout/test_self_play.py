"""Self-play on PettingZoo environments: whose turn, whose reward, and a game cut short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.spaces import Text
from pettingzoo import AECEnv

import llm_gym
from algos.config.schema import RolloutSection
from algos.data.episodes import Episode
from algos.data.rows import to_rows
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.model.load import load_model
from algos.rollout.environments import make_aec
from algos.rollout.playing import ModelPlayer
from algos.rollout.self_play import SelfPlay

ID = "llmgym/TicTacToe-v0"


class Collecting(AECEnv):  # type: ignore[misc]
    """A stranger's game of three, nothing of ours in it: who replies gets 1, the others get -1 / 2 at that moment."""

    metadata = {"name": "collecting", "is_parallelizable": False}

    def __init__(self, rounds: int = 2) -> None:
        super().__init__()
        self.rounds, self.possible_agents = rounds, ["a", "b", "c"]
        self.observation_spaces = self.action_spaces = dict.fromkeys(self.possible_agents, Text(1000))

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.rewards = self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.moves, self.agent_selection = 0, "a"

    def observe(self, agent: str) -> str:
        return f"{agent}: move {self.moves}\n0 1 2\n3 4 5\n6 7 8"

    def step(self, action: str | None) -> None:
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards = {**self._cumulative_rewards, agent: 0.0}
        self.rewards = {each: 1.0 if each == agent else -0.5 for each in self.agents}
        self.moves += 1
        self.agent_selection = self.agents[self.moves % 3]
        if self.moves == 3 * self.rounds:
            self.terminations = dict.fromkeys(self.agents, True)
        self._accumulate_rewards()


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> ModelPlayer:
    loaded, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    return ModelPlayer(HFEngine(loaded, chat.stop_ids, 8), chat)


def play(model: ModelPlayer, env: EnvKey, n: int = 8, **rollout: Any) -> list[list[Episode]]:
    games = SelfPlay(RolloutSection(**({"max_turns": 20, "max_prompt_tokens": 2000} | rollout)))
    seeded = replace(model, generator=torch.Generator().manual_seed(0))
    return games.play([Start(env, seed // 2) for seed in range(n)], [[seeded] * games.seats(env)] * n)


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_every_side_holds_what_its_player_was_told_said_and_earned(model: ModelPlayer, context: str) -> None:
    env = EnvKey(ID, '{"on_invalid": "retry:2", "random_opening": 2}')
    games = play(model, env, context=context)
    assert [[side.group for side in sides] for sides in games] == [[n] * 2 for n in range(8)]
    assert max(len(side.turns) for sides in games for side in sides) > 2
    for number, sides in enumerate(games):
        again = llm_gym.aec(ID, on_invalid="retry:2", random_opening=2)
        again.reset(seed=number // 2)
        said = [iter(side.turns) for side in sides]
        while not again.terminations[again.agent_selection]:
            seat = int(again.agent_selection[-1])
            turn = next(said[seat])
            assert (turn.observation, turn.player) == (str(again.observe(again.agent_selection)), seat)
            again.step(turn.reply)
        for seat, side in enumerate(sides):
            assert next(said[seat], None) is None
            assert (side.player, side.start, side.terminated) == (seat, Start(env, number // 2), True)
            assert side.outcome == again.infos[f"player_{seat}"]["outcome"]
            if side.turns:
                assert side.total_reward == again.infos[f"player_{seat}"]["returns"][seat]
                rows = to_rows(side.turns)
                assert len(rows) == (1 if context == "episode" else len(side.turns))


def test_a_strangers_game_of_three_pays_each_from_one_reply_to_its_next(model: ModelPlayer) -> None:
    (sides, *_) = play(model, EnvKey(f"{__name__}:Collecting"), n=2)
    # Each is paid 1 for its reply and loses 1/2 for each of the others' until its next one, or until the end.
    assert [[turn.reward for turn in side.turns] for side in sides] == [[0.0, 0.0], [0.0, 0.5], [0.0, 1.0]]
    assert [side.terminated for side in sides] == [True] * 3
    assert [turn.observation[:9] for turn in sides[1].turns] == ["b: move 1", "b: move 4"]


def test_a_game_cut_short_pays_what_was_earned_till_then(model: ModelPlayer) -> None:
    (sides, *_) = play(model, EnvKey(f"{__name__}:Collecting"), n=2, max_turns=1)
    # `a` was asked again and has been told; the others had their first reply and would be told with the next turn.
    assert [[turn.reward for turn in side.turns] for side in sides] == [[0.0], [0.5], [1.0]]
    assert [(side.terminated, side.truncated, side.outcome) for side in sides] == [(False, True, "truncated")] * 3


def test_a_prompt_that_would_be_too_long_ends_the_game(model: ModelPlayer) -> None:
    (sides, *_) = play(model, EnvKey(ID), n=2, max_prompt_tokens=3)
    assert [(side.turns, side.truncated) for side in sides] == [([], True)] * 2


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (EnvKey("llmgym/PasswordGame-v0"), "two or more players"),
        (EnvKey("llmgym/Nothing-v0"), "Nothing"),
        (EnvKey(ID, '{"on_invalid": "laugh"}'), "on_invalid must be"),
        (EnvKey("no_such_module:make"), "no_such_module"),
        (EnvKey(f"{__name__}:NoSuchGame"), "NoSuchGame"),
    ],
)
def test_what_is_no_game_of_several_is_refused(env: EnvKey, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_aec(env)


def test_opponent_and_seat_have_no_meaning_here_and_are_left_out() -> None:
    made = make_aec(EnvKey(ID, '{"opponent": "minimax", "seat": "alternate", "show_legal": true}'))
    assert made.possible_agents == ["player_0", "player_1"]
    assert "Legal actions" in made.observe("player_0")
