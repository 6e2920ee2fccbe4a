"""The Gymnasium view: its contract, seats, seeds, vectors, copies, and what bad settings are told."""

import copy
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

import llm_gym
from llm_gym import IllegalAction, TextEnv, TextGame
from llm_gym.games.tic_tac_toe import TicTacToe

ID = "llmgym/TicTacToe-v0"
TEXTS = ["", "plain", "中文 עברית \u200f🥚\u0301", "\x00 \ud800 \udfff", "long " * 200_000]


class Echo(TextGame):
    """Says back what it is told, three times; any text will do."""

    action_format = "plain"

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.current_player: int | None = 0
        self.heard: list[str] = []

    def observe(self, player: int) -> str:
        return self.heard[-1] if self.heard else ""

    def apply(self, action: str) -> None:
        if action == "refuse":
            raise IllegalAction(action)
        self.heard.append(action)
        self.current_player = 0 if len(self.heard) < 3 else None

    def returns(self) -> list[float]:
        return [1.0]


class Relay(TextGame):
    """Three players in turn, with no choice: which seat is the agent's is all there is to see."""

    num_players = 3

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.current_player: int | None = 0

    def observe(self, player: int) -> str:
        return str(player)

    def legal_actions(self) -> list[str]:
        return ["go"]

    def apply(self, action: str) -> None:
        self.current_player = self.current_player + 1 if self.current_player < 2 else None

    def returns(self) -> list[float]:
        return [0.0] * 3


gymnasium.register("tests/Echo-v0", entry_point=TextEnv, kwargs={"text_game": Echo}, disable_env_checker=True)


def reply(info: dict[str, Any], rng: random.Random) -> str:
    return rf"\boxed{{{rng.choice(info['legal_actions'])}}}"


def play(env: gymnasium.Env[str, str], seed: int | None, replies: int = 0) -> list[Any]:
    """All that is seen in one episode of replies drawn by ``replies``."""
    rng, over = random.Random(replies), False
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [observation, info]
    while not over:
        observation, reward, over, truncated, info = env.step(reply(info, rng))
        seen += [observation, reward, over, truncated, info]
    return seen


@pytest.mark.parametrize("opponent", ["random", "first", "minimax"])
@pytest.mark.parametrize("seat", [0, 1, "alternate", "random"])
def test_gymnasiums_own_checks_pass_without_a_warning(opponent: str, seat: int | str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(ID, opponent=opponent, seat=seat, render_mode="ansi").unwrapped)
    assert [str(warning.message) for warning in caught] == []


def test_the_id_makes_a_text_env_in_no_costly_wrapper() -> None:
    env = gymnasium.make(ID)
    assert isinstance(env.unwrapped, TextEnv)
    assert type(env.env) is TextEnv  # under gymnasium's OrderEnforcing alone
    assert env.spec is not None
    assert gymnasium.make(env.spec).spec == env.spec


@pytest.mark.parametrize(
    ("setting", "seeds", "seats"),
    [
        (0, [None] * 3, [0, 0, 0]),
        (2, [5, None, 6], [2, 2, 2]),
        ("alternate", [None] * 5, [0, 1, 2, 0, 1]),
        ("alternate", [4, 4, 5, 6], [1, 1, 2, 0]),
        ("alternate", [4, None, None, 0, None], [1, 2, 0, 0, 1]),
    ],
)
def test_the_agents_seat(setting: int | str, seeds: list[int | None], seats: list[int]) -> None:
    env = TextEnv(Relay, seat=setting)
    got = []
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        assert observation == str(info["player"])
        got.append(info["player"])
    assert got == seats


def test_a_random_seat_follows_the_seed_and_visits_all() -> None:
    env = TextEnv(Relay, seat="random")
    seats = [env.reset(seed=seed)[1]["player"] for seed in range(40)]
    assert seats == [env.reset(seed=seed)[1]["player"] for seed in range(40)]
    assert set(seats) == {0, 1, 2}
    assert {env.reset()[1]["player"] for _ in range(40)} == {0, 1, 2}


@pytest.mark.parametrize("seat", [0, 1, "alternate", "random"])
@pytest.mark.parametrize("opponent", ["random", "minimax"])
def test_resets_with_one_seed_are_identical_whatever_came_between(seat: int | str, opponent: str) -> None:
    env = gymnasium.make(ID, seat=seat, opponent=opponent)
    first = play(env, 7, replies=1)
    for between in (3, None, 8):
        play(env, between, replies=2)
        assert play(env, 7, replies=1) == first
    assert play(gymnasium.make(ID, seat=seat, opponent=opponent), 7, replies=1) == first


def test_different_seeds_give_different_games() -> None:
    env = gymnasium.make(ID, seat=1)
    assert len({env.reset(seed=seed)[0] for seed in range(100)}) == 9  # X, who opens, is the random opponent


def test_episodes_without_a_seed_go_on_from_the_last_one() -> None:
    runs = []
    for _ in range(2):
        env = gymnasium.make(ID, seat="random")
        runs.append([play(env, 3), play(env, None), play(env, None)])
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[0][2]


def test_seeds_hold_while_other_threads_draw_random_numbers() -> None:
    want = [play(gymnasium.make(ID, seat=1), seed) for seed in range(30)]
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            random.random()
            np.random.random()
            random.seed(1)
            np.random.seed(1)

    threads = [threading.Thread(target=draw, daemon=True) for _ in range(2)]
    threads += [threading.Thread(target=lambda: [play(gymnasium.make(ID), s) for s in range(50)], daemon=True)]
    for thread in threads:
        thread.start()
    got = [play(gymnasium.make(ID, seat=1), seed) for seed in range(30)]
    stop.set()
    for thread in threads:
        thread.join()
    assert got == want


def digest() -> str:
    episodes = [play(gymnasium.make(ID, seat=1, opponent=name), 11) for name in ("random", "minimax")]
    return hashlib.sha256(json.dumps(episodes).encode()).hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_seeds_hold_in_a_fresh_process(hash_seed: str) -> None:
    command = [sys.executable, "-c", "import test_env; print(test_env.digest())"]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_the_global_random_state_is_neither_read_nor_written() -> None:
    episodes = []
    for seed in (0, 99):
        random.seed(seed)
        np.random.seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist()
        episodes.append(play(gymnasium.make(ID, seat=1), 5))
        assert before == (random.getstate(), np.random.get_state()[1].tolist())
    assert episodes[0] == episodes[1]


def test_observations_do_not_grow_from_episode_to_episode() -> None:
    env = gymnasium.make(ID)
    assert len({len(env.reset()[0]) for _ in range(50) if play(env, None)}) == 1


class TestVectors:
    """Vectors made with Gymnasium's default settings, which include shared memory for asynchronous ones."""

    @pytest.fixture(params=["sync", "async"])
    def mode(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @staticmethod
    def make(env_id: str, mode: str, autoreset: AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any) -> VectorEnv:
        options = {"autoreset_mode": autoreset}
        return gymnasium.make_vec(env_id, num_envs=3, vectorization_mode=mode, vector_kwargs=options, **settings)

    @pytest.mark.parametrize("autoreset", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
    def test_a_vector_plays_what_its_environments_play_alone(self, mode: str, autoreset: AutoresetMode) -> None:
        alone = [gymnasium.make(ID, seat="alternate") for _ in range(3)]
        vector = self.make(ID, mode, autoreset, seat="alternate")
        results = [env.reset(seed=20 + i) for i, env in enumerate(alone)]
        observations, infos = vector.reset(seed=20)
        ended = [False] * 3
        for turn in range(30):
            assert list(observations) == [result[0] for result in results]
            for i, result in enumerate(results):
                for key, value in result[-1].items():
                    if key != "reward_terms":  # a dict, which vectors merge key by key
                        assert np.array_equal(infos[key][i], value), key
            rng = random.Random(turn)
            replies = [reply(result[-1], rng) if result[-1]["legal_actions"] else "" for result in results]
            if turn % 5 == 4:
                replies[turn % 3] = "no action"
            observations, rewards, terminated, truncated, infos = vector.step(replies)
            assert not truncated.any()
            for i, env in enumerate(alone):
                if ended[i] and autoreset == AutoresetMode.NEXT_STEP:
                    results[i], ended[i] = env.reset(), False
                    assert (rewards[i], terminated[i]) == (0.0, False)
                    continue
                results[i] = env.step(replies[i])
                ended[i] = bool(results[i][2])
                assert (rewards[i], terminated[i]) == (results[i][1], ended[i])
                if ended[i] and autoreset == AutoresetMode.SAME_STEP:
                    assert infos["final_obs"][i] == results[i][0]
                    assert infos["final_info"]["outcome"][i] == results[i][-1]["outcome"]
                    results[i] = env.reset()
        vector.close()

    def test_text_of_any_length_and_alphabet_passes(self, mode: str) -> None:
        vector = self.make("tests/Echo-v0", mode)
        assert vector.reset(seed=0)[0] == ("", "", "")
        for texts in (TEXTS[:3], TEXTS[2:]):
            observations, _, _, _, infos = vector.step(texts)
            assert observations == tuple(text.strip() for text in texts)
            assert [messages[-1]["content"] for messages in infos["messages"]] == list(observations)
        kept = observations
        vector.step(["other"] * 3)
        assert kept == tuple(text.strip() for text in TEXTS[2:])  # a result does not change after it was handed out
        vector.close()

    def test_its_spaces_hold_what_it_gives_and_takes(self, mode: str) -> None:
        vector = self.make("tests/Echo-v0", mode)
        observations, _ = vector.reset(seed=0)
        actions = vector.action_space.sample()
        assert observations in vector.observation_space
        assert actions in vector.action_space
        assert len(actions) == 3
        assert vector.step(actions)[0] in vector.observation_space
        vector.close()


def test_workers_of_a_spawned_vector_find_their_way() -> None:
    vector = AsyncVectorEnv([lambda: gymnasium.make(ID)], context="spawn")
    alone = gymnasium.make(ID)
    assert vector.reset(seed=1)[0] == (alone.reset(seed=1)[0],)
    assert vector.step([r"\boxed{4}"])[0] == (alone.step(r"\boxed{4}")[0],)
    vector.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deep", "pickle"])
@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
def test_a_copy_made_in_mid_game_plays_on_alike_and_apart(copied: Any, turns: int) -> None:
    """Before the first reset, after it, and within an episode."""
    env = gymnasium.make(ID, seat="alternate", on_invalid="random")
    rng = random.Random(0)
    if turns >= 0:
        _, info = env.reset(seed=3)
        for _ in range(turns):
            info = env.step(reply(info, rng))[-1]
    twin = copied(env)
    if turns >= 0:
        first = [env.step("junk"), [play(env, None) for _ in range(3)]]
        assert [twin.step("junk"), [play(twin, None) for _ in range(3)]] == first
    assert play(twin, 5) == play(env, 5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"seat": 2}, ValueError, "seat must be one of 0, 1, alternate or random, not 2"),
        ({"seat": -1}, ValueError, "seat must be one of 0, 1, alternate or random, not -1"),
        ({"seat": True}, ValueError, "seat must be one of 0, 1, alternate or random, not True"),
        ({"seat": "first"}, ValueError, "seat must be one of 0, 1, alternate or random, not 'first'"),
        ({"opponent": "deep blue"}, ValueError, "not 'deep blue'"),
        ({"opponent": 3}, ValueError, "not 3"),
        ({"opponent": None}, ValueError, "not None"),
        ({"on_invalid": "explode"}, ValueError, "on_invalid must be .*, not 'explode'"),
        ({"action_format": "xml"}, ValueError, "action_format must be one of boxed, bracket, .*, not 'xml'"),
        ({"action_format": ""}, ValueError, "action_format must be one of boxed, bracket, .*, not ''"),
        ({"render_mode": "human"}, ValueError, "render_mode must be ansi or None, not 'human'"),
        ({"oponent": "first"}, TypeError, "TicTacToe got an unexpected keyword argument 'oponent'"),
    ],
)
def test_a_bad_setting_is_told_in_one_line(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        TextEnv(TicTacToe, **settings)
    assert "\n" not in str(raised.value)
    if settings != {"render_mode": "human"}:  # Gymnasium warns and objects by itself there
        with pytest.raises(error, match=message) as raised:
            gymnasium.make(ID, **settings)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [lambda: gymnasium.make(ID), lambda: TextEnv(TicTacToe)], ids=["make", "bare"])
def test_a_step_outside_an_episode_asks_for_reset(make: Any) -> None:
    env = make()
    with pytest.raises(ResetNeeded):
        env.step(r"\boxed{4}")
    play(env, 0)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before step\(\)"):
        env.step(r"\boxed{4}")
    assert play(env, 0)[-2:-1] == [False]


@pytest.mark.parametrize("action", [4, None, b"4", ["4"], np.int64(4)])
def test_an_action_that_is_no_string_is_a_type_error(action: Any) -> None:
    env = gymnasium.make(ID)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="an action is the whole reply, a str, not"):
        env.step(action)
    assert env.step(r"\boxed{4}")[4]["parse"] == "ok"


def test_an_opponent_whose_reply_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="an action is the whole reply, a str, not NoneType"):
        TextEnv(TicTacToe, opponent=lambda observation, info: None, seat=1).reset(seed=0)


@pytest.mark.parametrize("seat", [0, 1])
def test_a_callable_opponent_sees_what_an_agent_in_its_seat_would_see(seat: int) -> None:
    shown: list[tuple[str, dict[str, Any]]] = []

    def first_legal(observation: str, info: dict[str, Any]) -> str:
        shown.append((observation, info))
        return rf"\boxed{{{info['legal_actions'][0]}}}"

    env, over = TextEnv(TicTacToe, opponent="first", seat=seat), False
    seen = [env.reset(seed=0)]
    while not over:
        observation, _, over, _, info = env.step(rf"\boxed{{{seen[-1][1]['legal_actions'][0]}}}")
        seen.append((observation, info))
    other, over = TextEnv(TicTacToe, opponent=first_legal, seat=1 - seat), False
    _, info = other.reset(seed=0)
    while not over:
        _, _, over, _, info = other.step(rf"\boxed{{{info['legal_actions'][0]}}}")
    assert shown == seen[:-1]  # an agent sees the end as well


def test_the_rendered_text_is_the_situation_as_the_agent_sees_it() -> None:
    env = gymnasium.make(ID, render_mode="ansi")
    observation, _ = env.reset(seed=0)
    assert env.render() == observation
    assert gymnasium.make(ID).unwrapped.render() is None


def test_every_registered_id_names_a_game_of_the_table() -> None:
    ids = {name for name in gymnasium.registry if name.startswith("llmgym/")}
    assert ids == {f"llmgym/{name}-v0" for name in llm_gym.GAMES}


def test_of_several_opponents_the_seed_draws_one_for_each_episode() -> None:
    env = gymnasium.make("llmgym/TicTacToe-v0", opponent=["first", "random"])
    replies = ["\\boxed{8}", "\\boxed{7}"]

    def second_board(seed: int) -> str:
        env.reset(seed=seed)
        return [env.step(reply)[0] for reply in replies][-1]

    alone = gymnasium.make("llmgym/TicTacToe-v0", opponent="first")
    alone.reset(seed=0)
    against_first = [alone.step(reply)[0] for reply in replies][-1]
    boards = [second_board(seed) for seed in range(40)]
    assert boards == [second_board(seed) for seed in range(40)]
    assert 10 < boards.count(against_first) < 35
    with pytest.raises(ValueError, match="at least one opponent"):
        gymnasium.make("llmgym/TicTacToe-v0", opponent=[])
