"""The loop that plays scripted players: what it yields, and that it draws exactly what the players draw."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import llm_gym  # noqa: F401 - registers the ids
from llm_gym.opponents import make_player
from llm_gym.opponents.scripted import Step, play_scripted, scripted_replies


def steps_of(env: gymnasium.Env, player: str, seed: int, rng: np.random.Generator) -> list[Step]:
    scripted = make_player(player, env.unwrapped.game)
    return list(play_scripted(env, scripted_replies(env.unwrapped.match, scripted, rng), env.reset(seed=seed)))


def by_hand(env: gymnasium.Env, player: str, seed: int, rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """The same episode, one reply at a time."""
    observation, info = env.reset(seed=seed)
    turns, over = [], "outcome" in info
    while not over:
        reply = env.unwrapped.scripted_reply(player, rng)
        after = env.step(reply)
        turns.append((observation, info, reply, after))
        observation, _, over, _, info = after
    return turns


@pytest.mark.parametrize(
    ("name", "player", "settings"),
    [
        ("TicTacToe", "minimax", {"seat": "alternate"}),
        ("TicTacToe", "mcts(20)", {"seat": 1, "action_format": "tag"}),
        ("Negotiation", "greedy", {"seat": "random"}),
        ("PasswordGame", "sampler", {"num_rules": 8}),
        ("LeducPoker", "random", {"seat": "alternate", "show_legal": True}),
        ("PredictionGame", "sampler", {"seat": "alternate"}),
    ],
)
def test_it_plays_what_the_same_replies_play_one_by_one(name: str, player: str, settings: dict[str, Any]) -> None:
    env, rng, rng_by_hand = gymnasium.make(f"llmgym/{name}-v0", **settings), *map(np.random.default_rng, (7, 7))
    for seed in range(6):
        steps = steps_of(env, player, seed, rng)
        earned = env.unwrapped.match.returns()[env.unwrapped.seat]
        assert sum(step.reward for step in steps) == (pytest.approx(earned) if steps else 0.0)
        turns = by_hand(env, player, seed, rng_by_hand)
        assert [(step.observation, step.info, step.reply) for step in steps] == [turn[:3] for turn in turns]
        after = [(s.next_observation, s.reward, s.terminated, s.truncated, s.next_info) for s in steps]
        assert after == [turn[3] for turn in turns]
    assert rng.bit_generator.state == rng_by_hand.bit_generator.state


def test_an_episode_that_the_opponent_ended_has_no_step() -> None:
    env = gymnasium.make("llmgym/TicTacToe-v0", opponent=lambda observation, info: "I resign", seat=1)
    start = env.reset(seed=0)
    assert start[1]["outcome"] == "win"
    assert list(play_scripted(env, lambda observation, info: r"\boxed{0}", start)) == []


def test_an_episode_can_be_left_midway() -> None:
    env = gymnasium.make("llmgym/TicTacToe-v0", opponent="first")
    shown: list[str] = []

    def reply(observation: str, info: dict[str, Any]) -> str:
        shown.append(observation)
        return rf"\boxed{{{info['legal_actions'][-1]}}}"

    first = next(play_scripted(env, reply, env.reset(seed=0)))
    assert (shown, first.reply) == ([first.observation], r"\boxed{8}")
    assert env.step(r"\boxed{7}")[4]["legal_actions"] == ["2", "3", "4", "5", "6"]
