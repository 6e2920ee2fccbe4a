"""The PettingZoo view: PettingZoo's own tests, and the same game as Gymnasium's view shows."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import pytest

pytest.importorskip("pettingzoo")
pytest.importorskip("pyspiel")

from pettingzoo.test import api_test, seed_test

import llm_gym
from llm_gym.match import INVALID_GIVES, INVALID_LOSES

SEVERAL = ["TicTacToe", "Negotiation"] + [
    name
    for name, settings in llm_gym.GAMES.items()
    if settings["text_game"].endswith(":OpenSpiel") and name not in {"2048", "Blackjack"}
]


def aec(name: str, **settings: Any) -> Any:
    return llm_gym.aec(f"llmgym/{name}-v0", **settings)


def reply(info: dict[str, Any], rng: random.Random) -> str:
    return f"\\boxed{{{rng.choice(info['legal_actions'])}}}"


def episode(env: Any, seed: int, max_turns: int = 200) -> list[Any]:
    """Everything seen in a game of random legal replies."""
    rng, trace = random.Random(seed), []
    env.reset(seed=seed)
    for agent in env.agent_iter(max_turns):
        seen = env.last()
        trace.append((agent, *copy.deepcopy(seen)))
        env.step(None if seen[2] else reply(seen[4], rng))
    return trace


@pytest.mark.parametrize("on_invalid", ["lose", "retry:2", "penalty:0.1", "random"])
@pytest.mark.parametrize("name", SEVERAL)
def test_pettingzoos_own_tests(name: str, on_invalid: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that observations are not arrays
        api_test(aec(name, on_invalid=on_invalid), num_cycles=60)
        seed_test(lambda: aec(name, on_invalid=on_invalid), num_cycles=40)
    assert aec(name, on_invalid=on_invalid).possible_agents[:2] == ["player_0", "player_1"]


@pytest.mark.parametrize("name", SEVERAL)
def test_whole_games(name: str) -> None:
    """Rewards, as each agent is told them, add up to the returns, and reward_terms to the rewards."""
    env = aec(name)
    earned = dict.fromkeys(env.possible_agents, 0.0)
    trace = episode(env, seed=1, max_turns=150)
    for agent, observation, reward, terminated, truncated, info in trace:
        assert isinstance(observation, str)
        assert env.observation_space(agent).contains(observation)
        assert {"player", "legal_actions", "parse", "messages"} <= set(info)
        assert f"player_{info['player']}" == agent
        assert sum(info.get("reward_terms", {}).values()) == pytest.approx(reward)
        assert not truncated
        earned[agent] += reward
        if terminated:
            assert info["returns"][info["player"]] == pytest.approx(earned[agent])
            assert info["outcome"] in {"win", "loss", "draw", "solved", "failed"}
    assert trace == episode(env, seed=1, max_turns=150)


def test_the_rules_come_once_to_each() -> None:
    first_turns: dict[str, list[str]] = {}
    for agent, *_, info in episode(aec("TicTacToe"), seed=0):
        first_turns.setdefault(agent, []).append(info["messages"][0]["role"])
    assert all(roles[0] == "system" and set(roles[1:]) == {"user"} for roles in first_turns.values())


def test_it_is_the_game_that_gymnasium_shows() -> None:
    """A callable opponent and an agent see, earn and end alike in both views."""
    for seed in range(5):
        for name in ("TicTacToe", "LeducPoker"):
            seen: list[tuple[str, list[str]]] = []
            rng = random.Random(seed)

            def opponent(observation: str, info: dict, seen: list = seen, rng: random.Random = rng) -> str:
                seen.append((observation, info["legal_actions"]))
                return reply(info, rng)

            env = gymnasium.make(f"llmgym/{name}-v0", opponent=opponent)
            observation, info = env.reset(seed=seed)
            over = "outcome" in info
            while not over:
                seen.append((observation, info["legal_actions"]))
                observation, _, over, _, info = env.step(reply(info, rng))
            trace = episode(aec(name), seed)
            assert [(str(turn[1]), turn[5]["legal_actions"]) for turn in trace if not turn[3]] == seen
            assert trace[-1][5]["returns"] == info["returns"]


@pytest.mark.parametrize("offender", [0, 1])
def test_an_invalid_reply_loses(offender: int) -> None:
    env = aec("TicTacToe")
    env.reset(seed=0)
    if offender:
        env.step("\\boxed{4}")
    env.step("I resign")
    told = {}
    for agent in env.agent_iter():
        _, reward, terminated, _, info = env.last()
        assert terminated
        told[agent] = (reward, info["outcome"], info["parse"])
        env.step(None)
    assert told[f"player_{offender}"] == (INVALID_LOSES, "invalid", "malformed")
    assert told[f"player_{1 - offender}"] == (INVALID_GIVES, "win", "ok")


def test_retry_keeps_the_turn_and_penalty_costs() -> None:
    env = aec("TicTacToe", on_invalid="penalty:0.25")
    env.reset(seed=0)
    env.step("\\boxed{9}")
    observation, reward, terminated, _, info = env.last()
    assert (env.agent_selection, reward, terminated, info["parse"]) == ("player_0", -0.25, False, "illegal")
    assert env.rewards == {"player_0": -0.25, "player_1": 0.0}
    assert "illegal" in observation


def test_copies_play_on_alike() -> None:
    env, rng = aec("LeducPoker"), random.Random(0)
    env.reset(seed=3)
    env.step(reply(env.infos[env.agent_selection], rng))
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        run = copy.deepcopy(env)
        answers, answers_again = random.Random(1), random.Random(1)
        while not run.terminations[run.agent_selection]:
            assert run.last() == twin.last()
            run.step(reply(run.infos[run.agent_selection], answers))
            twin.step(reply(twin.infos[twin.agent_selection], answers_again))
        assert run.last() == twin.last()


def test_render_and_names() -> None:
    env = aec("TicTacToe", render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "You are X.\n0 1 2\n3 4 5\n6 7 8"
    assert str(env) == "TicTacToe"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: aec("PasswordGame"), "two or more players"),
        (lambda: aec("TicTacToe", opponent="first"), "no opponent: every seat is open"),
        (lambda: aec("TicTacToe", seat=1), "no seat: every seat is open"),
        (lambda: aec("TicTacToe", render_mode="human"), "render_mode"),
        (lambda: aec("TicTacToe", on_invalid="shrug"), "on_invalid"),
        (lambda: llm_gym.aec("CartPole-v1"), "text environment"),
    ],
)
def test_wrong_calls_are_one_line(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_action_is_a_string_and_the_end_is_the_end() -> None:
    env = aec("TicTacToe")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("\\boxed{4}")
    env.reset(seed=0)
    with pytest.raises(TypeError, match="str"):
        env.step(4)


def test_pettingzoo_loads_when_called_and_its_absence_is_one_line() -> None:
    script = (
        "import sys, llm_gym\n"
        "assert 'pettingzoo' not in sys.modules and 'pyspiel' not in sys.modules\n"
        "sys.modules['pettingzoo'] = None\n"
        "try: llm_gym.aec('llmgym/TicTacToe-v0')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == 'DependencyNotInstalled PettingZoo is not installed: pip install "llm-gym[pettingzoo]"\n'
