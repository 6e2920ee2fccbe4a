"""Code execution: the rewards, what counts as code, the tasks and who plays them."""

from __future__ import annotations

from collections import Counter

import gymnasium
import numpy as np
import pytest

import llm_gym  # noqa: F401 - registers the ids
from llm_gym.game import IllegalAction
from llm_gym.games.code_execution import CodeExecution
from llm_gym.games.code_execution.tasks import LEVELS, draw_task, solve
from llm_gym.sandbox import run
from llm_gym.testing import check_text_env

ID = "llmgym/CodeExecution-v0"


def fence(program: str) -> str:
    return f"Here it is.\n```python\n{program}\n```"


# Reply, status, reward and its terms.
REPLIES = [
    (fence("print(1)"), "ok", 1.0, {"ran": 0.5, "printed": 0.5}),
    (fence("x = 1"), "ok", 0.5, {"ran": 0.5, "printed": 0.0}),
    (fence("print()"), "ok", 0.5, {"ran": 0.5, "printed": 0.0}),
    (fence("import sys\nprint(1, file=sys.stderr)"), "ok", 0.5, {"ran": 0.5, "printed": 0.0}),
    (fence("print(1"), "syntax_error", -0.5, {"ran": -0.5, "printed": 0.0}),
    (fence("if True:\nprint(1)"), "syntax_error", -0.5, {"ran": -0.5, "printed": 0.0}),
    (fence("print(1)\n  print(2)"), "syntax_error", -0.5, {"ran": -0.5, "printed": 0.0}),
    ("I would rather not.", "syntax_error", -0.5, {"ran": -0.5, "printed": 0.0}),
    (fence("raise SyntaxError('mine')"), "runtime_error", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("exec('print(')"), "runtime_error", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("raise IndentationError"), "runtime_error", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("print(1)\n1 / 0"), "runtime_error", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("print(1)\nraise SystemExit(3)"), "runtime_error", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("print(1, flush=True)\nwhile True: pass"), "timeout", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("print('x' * 10**7)"), "output_limit", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("x = 'x' * 10**10"), "memory", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence("import ctypes\nctypes.string_at(0)"), None, -1.0, {"ran": -1.0, "printed": 0.0}),
    ("", "no_code", -1.0, {"ran": -1.0, "printed": 0.0}),
    ("<think>print(1)</think>", "no_code", -1.0, {"ran": -1.0, "printed": 0.0}),
    (fence(""), "no_code", -1.0, {"ran": -1.0, "printed": 0.0}),
    ("print(2)", "ok", 1.0, {"ran": 0.5, "printed": 0.5}),
    (fence("1 / 0") + "\nNo, better:\n" + fence("print(1)"), "ok", 1.0, {"ran": 0.5, "printed": 0.5}),
]


@pytest.mark.parametrize(("reply", "status", "reward", "terms"), REPLIES, ids=[reply[:60] for reply, *_ in REPLIES])
def test_rewards(reply, status, reward, terms):
    env = gymnasium.make(ID, timeout_s=0.5 if status == "timeout" else 20)
    env.reset(seed=0)
    _, paid, terminated, truncated, info = env.step(reply)
    assert (paid, terminated, truncated) == (reward, True, False)
    assert info["reward_terms"] == terms
    assert info["returns"] == [reward]
    assert info["parse"] == "ok"
    assert info["outcome"] == ("solved" if reward == 1.0 else "failed")
    if status is not None:
        assert info["status"] == status


def test_info_and_observation_have_what_the_program_printed():
    env = gymnasium.make(ID)
    prompt, info = env.reset(seed=0)
    assert (info["status"], info["stdout"], info["stderr"]) == (None, "", "")
    observation, *_, info = env.step(fence("import sys\nprint('out')\nprint('\x1b[2Jerr', file=sys.stderr)"))
    assert (info["status"], info["stdout"], info["stderr"]) == ("ok", "out\n", "\x1b[2Jerr\n")
    assert observation.startswith(prompt + "\n")
    assert "stdout:\nout" in observation
    assert "stderr:\n\ufffd[2Jerr" in observation
    env.reset(seed=0)
    *_, info = env.step(fence("print('x' * 5000)"))
    assert info["stdout"] == "x" * 2000


def test_with_check_output_the_right_lines_earn_one_more():
    env = gymnasium.make(ID, check_output=True)
    program = solve(env.reset(seed=4)[0])
    expected = run(program).stdout
    for printed, earned in (
        (expected, 2.0),
        (expected.rstrip() + "  \n\n", 2.0),
        (expected + "more\n", 1.0),
        ("", 0.5),
    ):
        env.reset(seed=4)
        _, reward, *_, info = env.step(fence(f"print({printed!r}, end='')"))
        assert reward == earned
        assert info["reward_terms"]["correct"] == (1.0 if earned == 2.0 else 0.0)
        assert info["outcome"] == ("solved" if earned == 2.0 else "failed")


# Worked out by hand, so that the reference programs have something to be compared with.
WORKED_OUT = {
    "Print the sum of the multiples of 7 below 60.": "252\n",
    "Print the remainder of 100 divided by 7.": "2\n",
    "Print the first 8 Fibonacci numbers, from 0 and 1 on, one a line.": "0\n1\n1\n2\n3\n5\n8\n13\n",
    "Print all divisors of 60, smallest first, on one line with spaces between.": "1 2 3 4 5 6 10 12 15 20 30 60\n",
    "Print 60 in base 2, most significant digit first, digits with spaces between.": "1 1 1 1 0 0\n",
    "Print the Roman numeral of 394.": "CCCXCIV\n",
    "Print the prime numbers from 50 to 72, on one line with spaces between.": "53 59 61 67 71\n",
    "Print in how many ways coins of 1, 20 and 60 pay 61.": "5\n",
    "Print the rows 0 to 3 of Pascal's triangle, numbers with spaces between.": "1\n1 1\n1 2 1\n1 3 3 1\n",
    "Print how many steps the Collatz sequence takes from 64 to 1 (halve if even, else triple and add 1).": "6\n",
    "Print the greatest common divisor of 126 and 60.": "6\n",
    "Print a square of 2 lines, each 2 times the first letter of apple.": "aa\naa\n",
}


@pytest.mark.parametrize(("prompt", "output"), WORKED_OUT.items())
def test_reference_programs_print_what_was_worked_out_by_hand(prompt, output):
    assert run(solve(prompt)).stdout == output


@pytest.mark.parametrize("difficulty", LEVELS)
def test_each_difficulty_has_thousands_of_short_prompts_of_all_its_kinds(difficulty):
    rng = np.random.default_rng(0)
    tasks = [draw_task(difficulty, rng) for _ in range(5000)]
    assert len({task.prompt for task in tasks}) > 3000
    assert all(len(task.prompt) <= 120 and "\n" not in task.prompt and "$" not in task.prompt for task in tasks)
    assert all("$" not in task.program for task in tasks)
    assert len({task.prompt[:12] for task in tasks}) >= len(LEVELS[difficulty]) / 2
    assert all(solve(task.prompt) == task.program for task in tasks[:1000])


def test_difficulties_share_no_prompt_and_all_has_each():
    rng = np.random.default_rng(1)
    by_level = {level: {draw_task(level, rng).prompt for _ in range(3000)} for level in LEVELS}
    assert not by_level["easy"] & by_level["hard"]
    found = Counter(
        level for _ in range(600) for level in LEVELS if draw_task("all", rng).prompt[:14] in _openings(by_level[level])
    )
    assert all(found[level] > 100 for level in LEVELS)


def _openings(prompts: set[str]) -> set[str]:
    return {prompt[:14] for prompt in prompts}


def test_hard_reference_programs_are_longer_than_easy_ones():
    lengths = {level: [len(program.splitlines()) for _, program in LEVELS[level]] for level in LEVELS}
    assert sum(lengths["easy"]) < sum(lengths["medium"]) < sum(lengths["hard"])


@pytest.mark.parametrize(("player", "low", "high"), [("reference", 1.0, 1.0), ("sampler", 0.4, 0.75)])
def test_the_reference_always_prints_the_right_lines_and_the_sampler_about_half_the_time(player, low, high):
    env = gymnasium.make(ID, check_output=player == "reference")
    statuses: Counter[str] = Counter()
    solved = 0
    for seed in range(150):
        env.reset(seed=seed)
        *_, info = env.step(env.unwrapped.scripted_reply(player, np.random.default_rng(seed)))
        statuses[info["status"]] += 1
        solved += info["outcome"] == "solved"
    assert low <= solved / 150 <= high
    if player == "sampler":
        assert {"ok", "syntax_error", "runtime_error", "no_code"} <= set(statuses)


def test_an_unknown_prompt_is_no_task():
    with pytest.raises(ValueError, match="no task of code execution: 'Print something"):
        solve("Print something nice.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"difficulty": "brutal"}, "difficulty must be one of easy, medium, hard, all, not 'brutal'"),
        ({"check_output": "no"}, "check_output must be true or false, not 'no'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(ID, **settings)


def test_the_episode_is_one_turn():
    game = CodeExecution()
    game.reset(np.random.default_rng(0))
    game.apply("print(1)")
    before = game.serialize()
    with pytest.raises(IllegalAction):
        game.apply("print(2)")
    assert game.serialize() == before


@pytest.mark.parametrize("settings", [{"check_output": True}, {"difficulty": "hard", "action_format": "tag"}])
def test_checkers_pass_with_other_settings(settings):
    check_text_env(gymnasium.make(ID, **settings), episodes=4)
