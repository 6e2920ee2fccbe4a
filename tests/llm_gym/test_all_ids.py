"""What every registered id keeps to, whatever its game."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import llm_gym
from llm_gym import TextGame
from llm_gym.parsing import format_action
from llm_gym.spaces import SAMPLE_ALPHABET
from llm_gym.testing import JUNK, check_text_env, random_reply


def make(name: str, **settings) -> gymnasium.Env:
    return gymnasium.make(f"llmgym/{name}-v0", **settings)


def lists_actions(name: str) -> bool:
    """Whether the id has legal actions to list: where it has none, almost any reply is valid."""
    return type(make(name).unwrapped.game).legal_actions is not TextGame.legal_actions


NAMES = list(llm_gym.GAMES)
SEATS = [(name, seat) for name in NAMES for seat in range(make(name).unwrapped.game.num_players)]
TWO_PLAYER_SEATS = [(name, seat) for name, seat in SEATS if (name, 1) in SEATS and lists_actions(name)]
NON_LATIN = "ход 中文 🥚 e\u0301 שלום \u202e"

STRINGS_IN_ALL = GAMES_IN_ALL = 10_000
# Random games of these last long; the others share what is left of GAMES_IN_ALL.
FEWER_GAMES = {"Chess": 30, "Backgammon": 100, "GinRummy": 100, "Go": 200, "2048": 200, "Negotiation": 300}


def games_for(name: str) -> int:
    others = [other for other in NAMES if other not in FEWER_GAMES]
    left = GAMES_IN_ALL - sum(FEWER_GAMES[other] for other in NAMES if other in FEWER_GAMES)
    return FEWER_GAMES.get(name, math.ceil(left / len(others)))


def reset_to_a_turn(env: gymnasium.Env, seed: int = 0) -> tuple[str, dict]:
    """The first start from ``seed`` on in which the agent has a turn at all."""
    while True:
        observation, info = env.reset(seed=seed)
        if "outcome" not in info:
            return observation, info
        seed += 1


def play(env: gymnasium.Env, seed: int, junk: float = 0.0, max_turns: int = 40) -> list:
    """One episode of random replies; all that was seen of it, as plain data."""
    rng = random.Random(seed)
    observation, info = env.reset(seed=seed)
    trace: list = [copy.deepcopy([observation, info])]
    for _ in range(max_turns):
        if "outcome" in info:
            break
        reply = random_reply(info, rng, env.unwrapped.action_format, junk)
        observation, reward, terminated, truncated, info = env.step(reply)
        trace.append(copy.deepcopy([observation, reward, terminated, truncated, info]))
    return trace


def digests() -> dict[str, str]:
    """Of every id, what identifies its first episodes."""
    found = {}
    for name in NAMES:
        env = make(name)
        seen = json.dumps([play(env, seed, junk=0.2) for seed in range(4)], default=repr)
        found[name] = hashlib.sha256(seen.encode()).hexdigest()
    return found


@contextlib.contextmanager
def noise() -> Iterator[None]:
    """Another thread that draws from, and reseeds, both global generators all the while."""
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            random.seed(random.random())
            np.random.seed(int(np.random.random() * 1000))
            stop.wait(0.0001)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", NAMES)
def test_checkers_pass_and_nothing_is_printed(name, capfd):
    check_env(make(name).unwrapped, skip_close_check=True)
    capfd.readouterr()  # Gymnasium's checker may warn
    check_text_env(f"llmgym/{name}-v0", episodes=6, max_turns=80)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_play_as_single_environments_do(name, mode):
    singles = [make(name), make(name)]
    vector = gymnasium.make_vec(f"llmgym/{name}-v0", num_envs=2, vectorization_mode=mode)
    try:
        with noise():  # begun once the workers are there: a fork may not copy a thread's locks
            assert_plays_alike(vector, singles, seed=5)
            assert_plays_alike(vector, singles, seed=8, reply=NON_LATIN)
    finally:
        vector.close()


def assert_plays_alike(
    vector: gymnasium.vector.VectorEnv, singles: list[gymnasium.Env], seed: int, reply: str | None = None
) -> None:
    """Plays up to three turns of random legal replies, or of ``reply``, in both, until an episode ends."""
    observations, _ = vector.reset(seed=seed)
    starts = [env.reset(seed=seed + i) for i, env in enumerate(singles)]
    assert tuple(observations) == tuple(start[0] for start in starts)
    infos, rng = [info for _, info in starts], random.Random(seed)
    action_format = singles[0].unwrapped.action_format
    for _ in range(3):
        if any("outcome" in info for info in infos):
            break
        replies = [reply or random_reply(info, rng, action_format) for info in infos]
        observations, rewards, ends, _, _ = vector.step(replies)
        steps = [env.step(text) for env, text in zip(singles, replies)]
        assert tuple(observations) == tuple(step[0] for step in steps)
        assert rewards.tolist() == [step[1] for step in steps]
        assert ends.tolist() == [step[2] for step in steps]
        infos = [step[4] for step in steps]


def test_seeds_hold_beside_a_thread_that_draws_from_the_global_generators():
    quiet = digests()
    with noise():
        assert digests() == quiet


def test_seeds_hold_in_a_fresh_process(tmp_path):
    fresh = subprocess.run(
        [sys.executable, os.path.abspath(__file__)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert json.loads(fresh.stdout) == digests()


@pytest.mark.parametrize("name", NAMES)
def test_resets_with_one_seed_are_identical_starts(name):
    env = make(name)
    starts = [copy.deepcopy(env.reset(seed=3)) for _ in range(4)]
    play(env, 17)
    starts.append(env.reset(seed=3))
    assert all(start == starts[0] for start in starts)


@pytest.mark.parametrize("name", NAMES)
def test_observations_do_not_grow_from_episode_to_episode(name):
    env = make(name)
    first = play(env, 2)
    for seed in range(20, 26):
        play(env, seed)
    again = play(env, 2)
    assert [len(step[0]) for step in again] == [len(step[0]) for step in first]
    assert again == first


@pytest.mark.parametrize("name", NAMES)
def test_a_serialized_game_comes_back_whole(name):
    game = make(name).unwrapped.game
    rng = random.Random(2)
    for seed in range(5):
        game.reset(np.random.default_rng(seed))
        for _ in range(seed):
            if game.current_player is not None:
                game.apply(rng.choice(game.legal_actions() or ["997A!"]))
        twin = type(game).deserialize(game.serialize())
        assert twin.serialize() == game.serialize()
        assert twin.current_player == game.current_player
        assert twin.legal_actions() == game.legal_actions()
        for seat in range(game.num_players):
            assert twin.observe(seat) == game.observe(seat)


@pytest.mark.parametrize("name", NAMES)
def test_any_string_is_a_reply(name):
    env = make(name, on_invalid="retry:20")
    rng = random.Random(1)
    _, info = reset_to_a_turn(env)
    low, high = env.unwrapped.reward_range
    earned = 0.0
    for _ in range(math.ceil(STRINGS_IN_ALL / len(NAMES))):
        reply = random_string(rng, info, env.unwrapped.action_format)
        _, reward, over, _, info = env.step(reply)
        assert sum(info.get("reward_terms", {}).values()) == pytest.approx(reward)
        earned += reward
        assert low - 1e-9 <= earned <= high + 1e-9
        if over:
            assert info["returns"][info["player"]] == pytest.approx(earned)
            _, info = reset_to_a_turn(env, rng.randrange(1000))
            earned = 0.0


def random_string(rng: random.Random, info: dict, action_format: str) -> str:
    """Junk, random characters, or a legal reply that was damaged."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(JUNK)
    if kind == 1:
        return "".join(chr(rng.randrange(rng.choice((128, 0x3000, 0x110000)))) for _ in range(rng.randrange(30)))
    action = rng.choice(info["legal_actions"] or ["997A!"])
    if kind == 2:
        i = rng.randrange(len(action) + 1)
        action = action[:i] + rng.choice(SAMPLE_ALPHABET) + action[i + rng.randrange(2) :]
    reply = format_action(action, action_format)
    i = rng.randrange(len(reply) + 1)
    return reply[:i] + rng.choice(("", "", "<think>", "</think>", "\ud800", "{", "}", "\\boxed{")) + reply[i:]


@pytest.mark.parametrize("name", NAMES)
def test_random_legal_games_pay_within_the_range_and_zero_sums_are_zero(name):
    game = make(name).unwrapped.game
    zero_sum = name in ("TicTacToe", "Negotiation", "PredictionGame") or (
        hasattr(game, "spiel_game") and game.spiel_game.get_type().utility.name == "ZERO_SUM"
    )
    low, high = game.reward_range
    rng = random.Random(4)
    for seed in range(games_for(name)):
        game.reset(np.random.default_rng(seed))
        while game.current_player is not None:
            legal = game.legal_actions()
            game.apply(rng.choice(JUNK if legal is None else legal))
        returns = game.returns()
        assert len(returns) == game.num_players
        assert all(low <= earned <= high for earned in returns), returns
        for seat, earned in enumerate(returns):
            assert sum(game.reward_terms(seat).values()) == pytest.approx(earned)
        if zero_sum:
            assert sum(returns) == pytest.approx(0.0)


def bad_replies(env: gymnasium.Env) -> list[tuple[str, str]]:
    """What is wrong in every game: no action at all and, where actions can be listed, one that is none."""
    listed = env.unwrapped.game.legal_actions() is not None
    return [("no box", "malformed"), *([("\\boxed{no such action}", "illegal")] if listed else [])]


def boxed(name: str, seat: int, on_invalid: str) -> gymnasium.Env:
    env = make(name, seat=seat, on_invalid=on_invalid, action_format="boxed")
    reset_to_a_turn(env)
    return env


@pytest.mark.parametrize(("name", "seat"), SEATS)
def test_an_invalid_reply_loses(name, seat):
    for reply, parse in bad_replies(boxed(name, seat, "lose")):
        env = boxed(name, seat, "lose")
        by_rules = env.unwrapped.match.returns()
        _, _, terminated, truncated, info = env.step(reply)
        assert (terminated, truncated, info["parse"], info["outcome"]) == (True, False, parse, "invalid")
        assert info["reward_terms"]["invalid"] == -1.5
        extra = [after - before for after, before in zip(info["returns"], by_rules)]
        assert extra == pytest.approx([-1.5 if player == seat else 0.5 for player in range(len(extra))])


@pytest.mark.parametrize(("name", "seat"), SEATS)
def test_an_invalid_reply_may_be_retried(name, seat):
    for reply, parse in bad_replies(boxed(name, seat, "retry:2")):
        env = boxed(name, seat, "retry:2")
        situation = env.unwrapped.game.observe(seat)
        for _ in range(2):
            observation, _, over, _, info = env.step(reply)
            assert (info["parse"], over) == (parse, False)
            assert "invalid" not in info.get("reward_terms", {})
            assert observation.startswith(situation)
        _, _, over, _, info = env.step(reply)
        assert (over, info["outcome"], info["reward_terms"]["invalid"]) == (True, "invalid", -1.5)


@pytest.mark.parametrize(("name", "seat"), SEATS)
def test_an_invalid_reply_costs_a_penalty(name, seat):
    for reply, parse in bad_replies(boxed(name, seat, "penalty:0.25")):
        env = boxed(name, seat, "penalty:0.25")
        situation = env.unwrapped.game.observe(seat)
        for _ in range(5):
            observation, _, over, _, info = env.step(reply)
            assert (info["parse"], over, info["reward_terms"]["invalid"]) == (parse, False, -0.25)
            assert observation.startswith(situation)
        legal = info["legal_actions"]
        assert env.step(format_action(legal[0] if legal else "abc", "boxed"))[4]["parse"] == "ok"


@pytest.mark.parametrize(("name", "seat"), SEATS)
def test_an_invalid_reply_is_replaced_by_a_random_action(name, seat):
    if not lists_actions(name):
        with pytest.raises(ValueError, match="on_invalid='random' needs a game that lists its legal actions"):
            boxed(name, seat, "random")
        return
    for reply, parse in bad_replies(boxed(name, seat, "random")):
        env = boxed(name, seat, "random")
        over = False
        for _ in range(2000):
            _, _, over, _, info = env.step(reply)
            assert info["parse"] == parse
            assert "invalid" not in info.get("reward_terms", {})
            if over:
                break
        assert over
        assert info["outcome"] in {"win", "loss", "draw", "solved", "failed"}


@pytest.mark.parametrize(("name", "seat"), TWO_PLAYER_SEATS)
def test_an_opponents_invalid_reply_wins_the_game(name, seat):
    env = make(name, seat=seat, opponent=speechless)
    _, info = env.reset(seed=1)
    rng, over = random.Random(0), False
    while not over:  # a game that was over before the agent's first turn ends with the first step
        _, _, over, _, info = env.step(random_reply(info, rng))
    assert info["outcome"] == "win"
    assert info["reward_terms"]["invalid"] == 0.5


def speechless(observation: str, info: dict) -> str:
    return ""


if __name__ == "__main__":
    print(json.dumps(digests()))
