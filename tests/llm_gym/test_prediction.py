"""The prediction game: which programs are fair, who wins, what the predictor sees, and both seats in both views."""

from __future__ import annotations

from collections import Counter
from string import Template

import gymnasium
import numpy as np
import pytest

import llm_gym
from llm_gym.game import IllegalAction
from llm_gym.games.code_execution.tasks import fill
from llm_gym.games.prediction import PredictionGame
from llm_gym.games.prediction.players import PUZZLES
from llm_gym.testing import check_text_env

ID = "llmgym/PredictionGame-v0"


def fence(program: str) -> str:
    return f"```python\n{program}\n```"


def played(program: str, prediction: str | None = None, **settings) -> PredictionGame:
    game = PredictionGame(**settings)
    game.reset(np.random.default_rng(0))
    game.apply(program)
    if prediction is not None:
        game.apply(prediction)
    return game


FAIR = {
    "print(3 * 14)": "42",
    "print('  padded ')": "padded",
    "print('a', end='')": "a",
    "print()\nprint(7)\nprint()": "7",
    "print([1, {2: (3,)}])": "[1, {2: (3,)}]",
    "import math\nfrom collections import Counter\nprint(math.gcd(12, 18), Counter('aab')['a'])": "6 2",
    "print(sorted({'b', 'a', 'c'}))": "['a', 'b', 'c']",
    "print('é')": "é",
}


@pytest.mark.parametrize(("program", "output"), FAIR.items())
def test_a_fair_program_is_won_by_whoever_is_right(program, output):
    for prediction, earned in ((output, [-1.0, 1.0]), (f" {output}\n", [-1.0, 1.0]), (output + "0", [1.0, -1.0])):
        game = played(program, prediction)
        assert game.unfair == ""
        assert game.current_player is None
        assert game.returns() == earned
        assert [game.outcome(seat) for seat in (0, 1)] == [{1.0: "win", -1.0: "loss"}[pay] for pay in earned]
        assert game.reward_terms(0) == {"prediction": earned[0], "program": 0.0}


UNFAIR = {
    "": "there is no program",
    "# nothing": "it printed nothing",
    "print(1": "it ended with syntax_error",
    "print(1)\n1 / 0": "it ended with runtime_error",
    "while True: pass": "it ended with timeout",
    "print('x' * 10**7)": "it ended with output_limit",
    "x = [0] * 10**10": "it ended with memory",
    "print()": "it printed nothing",
    "print(1)\nprint(2)": "it printed more than one line",
    "print('a\\x0bb')": "it printed more than one line",
    "print('x' * 81)": "its line has more than 80 characters",
    "print('}')": "its line cannot be given as a reply",
    "print('a <think> b')": "its line cannot be given as a reply",
    "print('\\u202eabc')": "its line cannot be given as a reply",
    "print(1)  # \u202e": "it has characters that do not print",
    "print(" + "1 + " * 999 + "1)": "it has more than 2000 characters",
    "print([x for x in {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}])": "it printed something else when it was run again",
    "class A: pass\nprint(A())": "it printed something else when it was run again",
    "import random\nprint(random.random())": "it imports random",
    "import time\nprint(int(time.time()) // 1000)": "it imports time",
    "import math, os.path\nprint(1)": "it imports os.path",
    "from datetime import date\nprint(date.today())": "it imports datetime",
    "from . import x": "it imports .",
    "from re import sys": "it imports sys",
    "import re\nprint(re.enum.sys.modules['time'].time() // 1000)": "it uses modules",
    "import collections\nprint(collections._sys.version)": "it uses _sys",
    "print(__import__('time').time() // 1000)": "it uses __import__",
    "print(eval('1'))": "it uses eval",
    "print(id(print) // 16 % 2)": "it uses id",
    "print(().__class__.__base__.__subclasses__())": "it uses __subclasses__",
    "print(f'{id(1) // 16 % 2}')": "it uses id",
}


@pytest.mark.parametrize(("program", "why"), UNFAIR.items(), ids=[program[:50] for program in UNFAIR])
def test_a_program_that_is_not_fair_loses_at_once(program, why):
    game = played(program, timeout_s=0.5 if "while" in program else 20)
    assert game.unfair == why
    assert game.current_player is None
    assert game.returns() == [-1.0, 1.0]
    assert game.reward_terms(0) == {"prediction": 0.0, "program": -1.0}
    assert game.info(1) == {"output": "", "prediction": None, "unfair": why}
    with pytest.raises(IllegalAction):
        game.apply("1")


@pytest.mark.filterwarnings("error")
def test_reading_a_program_warns_nobody(recwarn):
    assert played("x = 1\nprint(x is 1, '\\d', 1if x else 2)").unfair == ""
    assert played("-" * 1900 + "1").unfair != ""
    assert len(recwarn) == 0


def test_the_two_runs_have_different_hash_seeds():
    unfair = sum(bool(played(f"print(list({{'a{n}', 'b{n}'}})[0])").unfair) for n in range(40))
    assert 8 <= unfair <= 32  # the order of two strings is the same under two seeds half the time


def test_the_predictor_never_sees_the_output_before_its_reply():
    program = "print(123456789 * 987654321)"
    output = "121932631112635269"
    env = gymnasium.make(ID, seat=1, opponent=lambda observation, info: fence(program))
    observation, info = env.reset(seed=0)
    assert program in observation
    assert output not in repr((observation, info))
    assert "output" not in info
    observation, reward, *_, info = env.step("It is \\boxed{121932631112635269}.")
    assert (reward, info["output"], info["prediction"], info["unfair"]) == (1.0, output, output, "")
    assert f"It prints: {output}" in observation


def test_the_prediction_is_read_from_the_predictors_reply_alone():
    env = gymnasium.make(ID, seat=1, opponent=lambda observation, info: fence("print(5)  # \\boxed{5}"))
    for reply, reward, parse in (
        ("The program has a 5 in it.", -1.5, "malformed"),
        ("<think>\\boxed{5}</think>", -1.5, "malformed"),
        ("\\boxed{5} no, \\boxed{6}", -1.0, "ok"),
        ("\\boxed{6} no, \\boxed{5}", 1.0, "ok"),
        ("\\boxed{5 }", 1.0, "ok"),
        ("\\boxed{5.0}", -1.0, "ok"),
    ):
        env.reset(seed=0)
        _, paid, _, _, info = env.step(reply)
        assert (paid, info["parse"]) == (reward, parse)


def test_each_seat_is_told_and_read_in_its_own_format():
    systems, shown = {}, {}

    def opponent(observation, info):
        systems[info["player"]] = info["messages"][0]["content"]
        shown[info["player"]] = observation
        return fence("print(8)") if info["player"] == 0 else "\\boxed{8}"

    env = gymnasium.make(ID, seat=0, opponent=opponent)
    _, info = env.reset(seed=0)
    systems[0] = info["messages"][0]["content"]
    assert env.unwrapped.action_format == "fence"
    _, reward, _, _, info = env.step("Easy:\n" + fence("print(8)"))
    assert (reward, info["outcome"], info["prediction"]) == (-1.0, "loss", "8")
    assert "fenced block:\n```python\nprint(3 * 14)\n```" in systems[0]
    assert "\\boxed{42}" in systems[1]
    assert "boxed" not in systems[0]
    assert "print(8)" in shown[1]
    env = gymnasium.make(ID, seat=1, opponent=opponent)
    env.reset(seed=0)
    assert env.unwrapped.action_format == "boxed"
    assert env.step("\\boxed{8}")[1] == 1.0


@pytest.mark.parametrize(
    ("action_format", "generator", "predictor"),
    [
        (("fence", "tag"), fence("print([8])"), "<answer>[8]</answer>"),
        (["tag", "plain"], "<answer>print([8])</answer>", "[8]"),
        ("plain", "print([8])", "[8]"),
    ],
)
def test_a_format_may_be_given_for_each_seat_or_for_all(action_format, generator, predictor):
    env = gymnasium.make(ID, seat=1, action_format=action_format, opponent=lambda observation, info: generator)
    env.reset(seed=0)
    assert env.step(predictor)[1] == 1.0


@pytest.mark.parametrize(
    ("action_format", "message"),
    [
        (["fence"], "one format, or one for each of 2 seats"),
        (("fence", "xml"), "action_format must be one of .* not 'xml'"),
    ],
)
def test_formats_that_do_not_fit_the_seats_are_refused(action_format, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(ID, action_format=action_format)


def test_an_invalid_prediction_pays_the_generator():
    env = gymnasium.make(ID, opponent=lambda observation, info: "no box")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(fence("print(1)"))
    assert (reward, info["outcome"], info["returns"]) == (0.5, "win", [0.5, -1.5])


def results(player: str, opponent: str, seat: int, games: int = 60) -> Counter:
    env = gymnasium.make(ID, seat=seat, opponent=opponent)
    counts: Counter = Counter()
    for seed in range(games):
        _, info = env.reset(seed=seed)
        over = "outcome" in info
        reply = "" if over else env.unwrapped.scripted_reply(player, np.random.default_rng(seed))
        *_, info = env.step(reply)
        counts[info["outcome"]] += 1
        counts[info["unfair"] != ""] += 1
    return counts


def test_the_reference_predicts_every_program_and_writes_none_that_is_unfair():
    counts = results("reference", "reference", seat=1)
    assert counts == {"win": 60, False: 60}
    assert results("reference", "reference", seat=0) == {"loss": 60, False: 60}


def test_the_sampler_breaks_some_programs_and_predicts_some_rightly():
    as_generator = results("sampler", "sampler", seat=0)
    assert 5 <= as_generator[True] <= 30
    as_predictor = results("sampler", "reference", seat=1)
    assert 15 <= as_predictor["win"] <= 50
    assert as_predictor[True] == 0


def test_the_sampler_predicts_short_programs_more_often():
    game = PredictionGame()
    right: Counter = Counter()
    for program in ("print(11 * 11)", "x = 11\nx = x * 11\nx = x + 1\nx = x - 1\nprint(x)"):
        for seed in range(60):
            game.reset(np.random.default_rng(0))
            game.apply(program)
            guess = game.players["sampler"](game.observe(1), {"player": 1}, np.random.default_rng(seed))
            right[program.count("\n")] += guess == game.output
    assert right[0] == 60
    assert 2 <= right[4] <= 30


@pytest.mark.parametrize("puzzle", PUZZLES)
def test_every_puzzle_is_fair_whatever_is_drawn(puzzle):
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert played(Template(puzzle).substitute(fill(puzzle, rng))).unfair == ""


def test_ideas_differ_from_seed_to_seed():
    env = gymnasium.make(ID)
    assert len({env.reset(seed=seed)[0] for seed in range(100)}) > 90


def test_both_seats_learn_in_the_pettingzoo_view():
    pytest.importorskip("pettingzoo")
    env = llm_gym.aec(ID)
    for prediction, rewards in (("42", [-1.0, 1.0]), ("41", [1.0, -1.0])):
        env.reset(seed=0)
        env.step("My program:\n" + fence("print(6 * 7)"))
        assert env.agent_selection == "player_1"
        observation, _, _, _, info = env.last()
        assert "print(6 * 7)" in observation
        assert "\\boxed{42}" in info["messages"][0]["content"]
        env.step(f"\\boxed{{{prediction}}}")
        assert [env.rewards["player_0"], env.rewards["player_1"]] == rewards
        assert env.infos["player_0"]["reward_terms"]["prediction"] == rewards[0]


@pytest.mark.parametrize("settings", [{"seat": 1}, {"seat": "alternate", "opponent": "reference"}])
def test_checkers_pass_in_every_seat(settings):
    check_text_env(gymnasium.make(ID, **settings), episodes=4)


@pytest.mark.parametrize("setting", ["max_output", "max_program"])
def test_wrong_settings_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be a whole number of at least 1, not 0"):
        gymnasium.make(ID, **{setting: 0})


def test_a_program_as_shown_comes_back_out_of_the_observation():
    game = played("x = '```'\nprint(len(x))")
    assert game.players["reference"](game.observe(1), {"player": 1}, np.random.default_rng(0)) == "3"
