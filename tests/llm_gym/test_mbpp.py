"""MBPP: both layouts, the splits, what is told and paid, programs that cheat, and every reference solution."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

import llm_gym  # noqa: F401 - registers the ids
from llm_gym.games.code.programs import Judge
from llm_gym.games.mbpp import MBPP, SPLITS, MbppTask, read_tasks
from llm_gym.testing import check_text_env

ID = "llmgym/MBPP-v0"
SHARED = Path(os.environ.get("LLM_GYM_SHARED") or Path(__file__).parents[3] / "shared") / "data" / "mbpp"
FILES = {"mbpp_prompt_and_train.jsonl": 384, "sanitized_prompt_and_train.json": 127}

FULL_RECORD = {
    "text": "Write a function to double.\r\n",
    "code": "import math\r\nclass Box:\r\n  def __init__(self, v): self.v = v\r\ndef twice(box):\r\n  return 2 * box.v",
    "task_id": 601,
    "test_setup_code": "small = Box(1)\r\nlarge = Box(50)",
    "test_list": ["assert twice(small) == 2", "assert twice(large) == 100"],
    "challenge_test_list": [],
}
SANITIZED_RECORD = {
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 11,
    "prompt": "Write a function to halve.",
    "code": "def half(n):\n    return n / 2",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(half(3), 1.5)", "assert half(2) == 1"],
}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("MBPP_DATASET_PATH", "MBPP_TIMEOUT_SECONDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def full(tmp_path):
    """A file in the layout of mbpp.jsonl with three tasks."""
    records = [{**FULL_RECORD, "task_id": number} for number in (974, 601, 602)]
    path = tmp_path / "mbpp.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return path


@pytest.fixture
def sanitized(tmp_path):
    """A file in the layout of sanitized-mbpp.json with one task a split."""
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([{**SANITIZED_RECORD, "task_id": number} for number in (1, 11, 511, 601)]))
    return path


def fence(program: str) -> str:
    return f"```python\n{program}\n```"


def one_turn(program: str, **settings) -> tuple[float, dict]:
    env = gymnasium.make(ID, **settings)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(fence(program))
    assert terminated
    return reward, info


def test_the_full_layout_is_read_with_its_oddities(full):
    tasks = read_tasks(str(full))
    assert [task.task_id for task in tasks] == [601, 602, 974]
    assert tasks[0] == MbppTask(
        601,
        "Write a function to double.",
        FULL_RECORD["code"].replace("\r\n", "\n"),
        ("assert twice(small) == 2", "assert twice(large) == 100"),
        "",
        "small = Box(1)\nlarge = Box(50)",
    )
    reward, info = one_turn(tasks[0].code, dataset=str(full))  # its set-up code needs the solution's class
    assert (reward, info["passed"], info["dataset"]) == (1.0, True, str(full))


def test_the_sanitized_layout_is_read_with_its_oddities(sanitized):
    assert read_tasks(str(sanitized))[1].imports == "import math"
    reward, info = one_turn("def half(n):\n    return n / 2", dataset=str(sanitized), split="test")
    assert (reward, info["task_id"]) == (1.0, 11)  # its tests need an import that the solution lacks


@pytest.mark.parametrize(("split", "ids"), [("prompt", [1]), ("test", [11]), ("validation", [511]), ("train", [601])])
def test_splits_go_by_id(sanitized, split, ids):
    game = MBPP(dataset=str(sanitized), split=split)
    assert [task.task_id for task in game.tasks] == ids
    assert len(MBPP(dataset=str(sanitized), split="all").tasks) == 4


def test_the_papers_ids_are_in_one_split_each():
    sizes = {split: sum(number in ids for number in range(1, 975) for ids in SPLITS[split]) for split in SPLITS}
    assert sizes == {"prompt": 10, "test": 500, "validation": 90, "train": 374}


def test_own_tasks_are_in_train_and_test():
    assert [len(MBPP(split=split).tasks) for split in ("train", "test", "all")] == [20, 10, 30]
    with pytest.raises(ValueError, match="own has no validation split: its ids are 1001 to 1030"):
        MBPP(split="validation")


def test_dataset_comes_from_the_setting_then_the_environment_then_the_package(full, sanitized, monkeypatch):
    assert MBPP().dataset == "own"
    monkeypatch.setenv("MBPP_DATASET_PATH", str(full))
    assert MBPP().dataset == str(full)
    assert MBPP(dataset=str(sanitized)).dataset == str(sanitized)
    assert MBPP(dataset="own").dataset == "own"


def test_timeout_comes_from_the_setting_then_the_environment(monkeypatch):
    assert MBPP().judge.timeout_s == 10.0
    monkeypatch.setenv("MBPP_TIMEOUT_SECONDS", "0.5")
    assert MBPP(timeout_s=3).judge.timeout_s == 3
    reward, info = one_turn("while True: pass")
    assert (reward, info["status"]) == (0.0, "timeout")
    assert info["tests"][0]["reason"] == "timeout: the limit wall_s was reached"
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv("MBPP_TIMEOUT_SECONDS", wrong)
        with pytest.raises(ValueError, match=r"MBPP_TIMEOUT_SECONDS must be a number|timeout_s must be a number"):
            MBPP()


UNREADABLE = [
    (None, "cannot read .*: No such file or directory"),
    ("", "holds no tasks"),
    ("not json", "neither JSON lines nor a JSON list"),
    ('{"task_id": 3}', r"record 1 of .* is no MBPP record \(KeyError: 'prompt'\)"),
    ("[1, 2]", "record 1 of .* is no MBPP record"),
    (json.dumps({**FULL_RECORD, "test_list": []}), "task 601: it has no tests"),
    (json.dumps({**FULL_RECORD, "test_list": ["print(1)"]}), "task 601: expected one assert statement"),
    ("\n".join([json.dumps(FULL_RECORD)] * 2), "holds a task_id twice"),
]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "tasks.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        gymnasium.make(ID, dataset=str(path))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_folder_and_a_binary_file_are_no_data_set(tmp_path):
    binary = tmp_path / "mbpp.parquet"
    binary.write_bytes(b"PAR1\xff\xfe")
    for path, message in ((tmp_path, "Is a directory"), (binary, "it is no UTF-8 text")):
        with pytest.raises(ValueError, match=f"MBPP: cannot read {path}: {message}"):
            MBPP(dataset=str(path))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the datasets library is installed")
@pytest.mark.parametrize("dataset", ["hub", "hub:sanitized"])
def test_the_hub_needs_a_library_and_says_so(dataset):
    with pytest.raises(DependencyNotInstalled, match="MBPP from the hub needs the datasets library: pip install"):
        gymnasium.make(ID, dataset=dataset)


def test_a_task_is_drawn_by_the_seed_or_named_by_options():
    env = gymnasium.make(ID)
    drawn = {env.reset(seed=seed)[1]["task_id"] for seed in range(200)}
    assert drawn == set(range(1001, 1021))
    assert env.reset(seed=5)[1]["task_id"] == env.reset(seed=5)[1]["task_id"]
    tasks = env.unwrapped.game.tasks
    walked = [env.reset(options={"index": index})[1]["task_id"] for index in range(len(tasks))]
    assert walked == [task.task_id for task in tasks] == sorted(drawn)
    assert env.reset(options={"task_id": 1025})[1]["task_id"] == 1025  # of another split
    for options, message in (
        ({"index": 20}, "index must be 0 to 19, not 20"),
        ({"index": "3"}, "index must be 0 to 19, not '3'"),
        ({"task_id": 7}, "own has no task_id 7"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)


def test_a_fixed_task_is_in_every_episode():
    env = gymnasium.make(ID, task_id=1030)
    assert {env.reset(seed=seed)[1]["task_id"] for seed in range(5)} == {1030}
    assert len(env.unwrapped.game.tasks) == 1
    with pytest.raises(ValueError, match="own has no task_id 5"):
        gymnasium.make(ID, task_id=5)


def test_the_observation_has_the_task_and_its_tests_or_the_first_line(full):
    observation, _ = gymnasium.make(ID, dataset=str(full)).reset(seed=0)
    assert observation == (
        "Write a function to double.\nYour code must pass these tests:\nsmall = Box(1)\nlarge = Box(50)\n"
        "assert twice(small) == 2\nassert twice(large) == 100"
    )
    observation, _ = gymnasium.make(ID, dataset=str(full), show_tests=False).reset(seed=0)
    assert observation == "Write a function to double.\nIt begins: def twice(box):"


HALF_RIGHT = "def count_rises(numbers):\n    return 2"  # passes 1 of 4 tests of task 1001


def test_pass_pays_all_or_nothing_and_fraction_the_share():
    right = read_tasks("own")[0].code
    assert one_turn(right, task_id=1001)[0] == 1.0
    assert one_turn(right, task_id=1001, reward="fraction")[0] == 1.0
    reward, info = one_turn(HALF_RIGHT, task_id=1001)
    assert (reward, info["outcome"], info["passed"], info["status"]) == (0.0, "failed", False, "ok")
    assert [test["passed"] for test in info["tests"]] == [True, False, False, False]
    assert info["tests"][1] == {
        "test": "assert count_rises([4, 4, 4]) == 0",
        "passed": False,
        "reason": "got 2, expected it == 0",
    }
    reward, info = one_turn(HALF_RIGHT, task_id=1001, reward="fraction")
    assert (reward, info["reward_terms"], info["outcome"]) == (0.25, {"tests": 0.25}, "failed")


def test_with_more_turns_the_failed_test_is_told_and_the_last_program_counts():
    env = gymnasium.make(ID, task_id=1001, max_turns=3, reward="fraction")
    observation, info = env.reset(seed=0)
    assert observation.startswith("Turn 1 of 3.\n")
    assert (info["tests"], info["status"], info["passed"]) == ([], None, False)
    observation, reward, over, _, info = env.step(fence(HALF_RIGHT))
    assert (reward, over) == (0.0, False)
    assert observation.startswith("Turn 2 of 3.\nWrite a function to count")
    assert f"Your last program:\n{fence(HALF_RIGHT)}\n" in observation
    assert observation.endswith(
        "It passed 1 of 4 tests. This one failed: assert count_rises([4, 4, 4]) == 0\ngot 2, expected it == 0"
    )
    observation, reward, over, _, info = env.step(fence("def count_rises(numbers) return 0"))
    assert (reward, over, info["status"]) == (0.0, False, "syntax_error")
    assert "It passed 0 of 4 tests." in observation
    assert "SyntaxError: expected ':'" in observation
    _, reward, over, _, info = env.step(fence(read_tasks("own")[0].code))
    assert (reward, over, info["outcome"], info["reward_terms"]) == (1.0, True, "solved", {"tests": 1.0})


def test_the_episode_ends_with_the_last_turn_or_the_first_that_passes():
    env = gymnasium.make(ID, task_id=1001, max_turns=2)
    env.reset(seed=0)
    assert env.step(fence(read_tasks("own")[0].code))[1:3] == (1.0, True)
    env.reset(seed=0)
    assert env.step(fence("x = 1"))[1:3] == (0.0, False)
    _, reward, over, _, info = env.step(fence("x = 1"))
    assert (reward, over, info["outcome"]) == (0.0, True, "failed")


CHEATS = {
    "leaves with success": "import os\nos._exit(0)",
    "leaves by sys.exit": "import sys\nsys.exit(0)",
    "equals everything": "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
    "def count_rises(n): return E(7)",
    "patches builtins": "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.all = lambda x: True\n"
    "def count_rises(n): return None",
    "swallows the test": "def count_rises(n): raise SystemExit(0)",
    "reads what is expected": "import gc\ndef count_rises(n):\n"
    "    return next((o for o in gc.get_objects() if isinstance(o, str) and 'count_rises([4' in o), None)",
    "is no code": "I cannot help with that.",
    "is nothing": "",
}


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=list(CHEATS))
def test_cheats_pass_no_test(cheat):
    reward, info = one_turn(cheat, task_id=1001, reward="fraction", timeout_s=2.0)
    assert reward == 0.0
    assert [test["passed"] for test in info["tests"]] == [False] * 4
    assert all(test["reason"] for test in info["tests"])


def wrong(code: str, tests: tuple[str, ...]) -> str:
    """The solution, but the functions that tests call return something else than they did."""
    tested = {node.id for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    tree = ast.parse(code)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in tested:
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    node.value = ast.Call(ast.Name("_wrong", ast.Load()), [node.value], [])
    changed = "def _wrong(value):\n    return not value if isinstance(value, bool) else ('wrong', value)"
    return f"{ast.unparse(ast.fix_missing_locations(tree))}\n{changed}"


def check_references(tasks: list[MbppTask]) -> None:
    """Every reference passes, and with changed return values fails. Task 123 takes some 9 s."""
    judge = Judge(60.0, "full")
    failed, passed_though_wrong = [], []
    for task in tasks:
        if not judge.grade(task.code, task.tests, task.imports, task.setup).passed:
            failed.append(task.task_id)
        if judge.grade(wrong(task.code, task.tests), task.tests, task.imports, task.setup).passed:
            passed_though_wrong.append(task.task_id)
    assert (failed, passed_though_wrong) == ([], [])


def test_own_references_pass_and_changed_ones_fail():
    check_references(list(read_tasks("own")))


def test_own_tasks_are_different_and_none_can_be_solved_by_a_constant():
    tasks = read_tasks("own")
    assert len({task.text for task in tasks}) == len({task.code for task in tasks}) == 30
    judge = Judge(5.0, "full")
    for task in tasks:
        name = next(node.func.id for node in ast.walk(ast.parse(task.tests[0])) if isinstance(node, ast.Call))
        for constant in ("None", "0", "True", "[]", "''"):
            grade = judge.grade(f"def {name}(*a): return {constant}", task.tests, task.imports, task.setup)
            assert not grade.passed, (task.task_id, constant)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # some references have such
@pytest.mark.skipif(not SHARED.is_dir(), reason="the MBPP data is not here")
@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_all_references_pass_and_changed_ones_fail(name, count):
    tasks = read_tasks(str(SHARED / name))
    assert len(tasks) == count
    check_references(list(tasks))


def test_the_reference_solves_and_the_sampler_sometimes():
    solved = {"reference": 0, "sampler": 0}
    env = gymnasium.make(ID, split="all")
    for player in solved:
        for index in range(30):
            env.reset(options={"index": index})
            reply = env.unwrapped.scripted_reply(player, np.random.default_rng(index))
            solved[player] += env.step(reply)[4]["outcome"] == "solved"
    assert solved["reference"] == 30
    assert 4 <= solved["sampler"] <= 26


@pytest.mark.parametrize(
    "settings",
    [
        {"max_turns": 3, "reward": "fraction"},
        {"split": "test", "show_tests": False, "max_turns": 2, "on_invalid": "retry:1"},
    ],
)
def test_checkers_pass_with_other_settings(settings):
    check_text_env(gymnasium.make(ID, **settings), episodes=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, "split must be one of prompt, test, validation, train, all, not 'dev'"),
        ({"reward": "tests"}, "reward must be one of pass, fraction, not 'tests'"),
        ({"max_turns": 0}, "max_turns must be a whole number of at least 1, not 0"),
        ({"show_tests": "no"}, "show_tests must be true or false, not 'no'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(ID, **settings)
