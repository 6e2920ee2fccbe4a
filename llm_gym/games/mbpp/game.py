"""MBPP over text: a task, a program, its tests; with several turns, another try after a failed test."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import asdict
from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame
from llm_gym.games.code.drawing import SometimesBroken, pick
from llm_gym.games.code.programs import Judge, fenced, shown
from llm_gym.games.mbpp.dataset import SPLITS, MbppTask, read_tasks, source_of
from llm_gym.sandbox import Isolation

TIMEOUT_VARIABLE = "MBPP_TIMEOUT_SECONDS"
TIMEOUT_S = 10.0
REWARDS = ("pass", "fraction")
MOST_PROGRAM_SHOWN = 4000


def reference(observation: str, info: dict[str, Any], rng: np.random.Generator | None = None) -> str:
    """A scripted player: the reference solution, found in the data set by the task's number."""
    return next(task.code for task in read_tasks(info["dataset"]) if task.task_id == info["task_id"])


class MBPP(TextGame):
    """Mostly Basic Python Problems (Austin et al., 2021), ``llmgym/MBPP-v0``: write a function that passes its tests.

    ## Observation
    The task and its tests; after a program that failed, that program and the first test that it failed::

        Turn 2 of 3.
        Write a function to add two numbers.
        Your code must pass these tests:
        assert add(1, 2) == 3
        assert add(4, 0) == 4
        Your last program:
        ```python
        def add(a, b):
            return a
        ```
        It passed 1 of 2 tests. This one failed: assert add(1, 2) == 3
        got 1, expected it == 3

    ## Action
    A Python program: by default (``fence``) the last fenced Python block of the reply, else the last fenced block, else
    the whole reply.

    ## Reward
    At the end, for the last program: under ``pass`` 1.0 if all tests passed, else 0.0; under ``fraction`` the share of
    tests that passed. Tests run in the sandbox, all in one process, and are judged outside it.

    ``info`` has ``task_id``, ``dataset``, and for the last program ``passed``, ``tests`` (for each ``test`` whether it
    ``passed`` and the ``reason`` why not) and ``status`` (how its process ended, see
    :class:`llm_gym.sandbox.Result`; None before the first program).

    ## Start and end
    The seed draws a task of the split. ``reset(options={"task_id": 602})`` takes that task, of whatever split, and
    ``reset(options={"index": i})`` the i-th of the split; ``len(env.unwrapped.game.tasks)`` is the number of tasks, so
    that an evaluation can visit them all. The episode ends ``solved`` with a program that passes all tests, and
    ``failed`` after ``max_turns`` programs.

    ## Arguments
    ``dataset``: path of a file in the layout of the original ``mbpp.jsonl`` or ``sanitized-mbpp.json``; ``hub`` or
    ``hub:sanitized`` (the Hugging Face hub, with the ``datasets`` library); ``own``, this package's own 30 tasks (20
    train, 10 test). By default what ``MBPP_DATASET_PATH`` names, else ``own``. ``split``: ``train``, ``test``,
    ``validation``, ``prompt`` or ``all``, by the paper's ids. ``task_id``: this task in every episode. ``max_turns``:
    programs per episode. ``show_tests``: whether the task shows its tests or just the function's first line.
    ``reward``: ``pass`` or ``fraction``. ``timeout_s``: seconds for a program and all its tests; by default what
    ``MBPP_TIMEOUT_SECONDS`` says, else 10 (the reference of task 123 takes about 9). ``isolation``: ``full`` (resetting
    the environment raises ``SandboxUnavailable`` where that is not available), ``container`` or ``best_effort``.

    ## Version history
    v0: first version.
    """

    action_format = "fence"
    example = "def add(a, b):\n    return a + b"
    reward_range = (0.0, 1.0)
    players = {"reference": reference, "sampler": SometimesBroken(reference, 0.7)}

    def __init__(
        self,
        dataset: str | None = None,
        split: str = "train",
        task_id: int | None = None,
        max_turns: int = 1,
        show_tests: bool = True,
        reward: str = "pass",
        timeout_s: float | None = None,
        isolation: Isolation = "full",
    ) -> None:
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, all, not {split!r}")
        if reward not in REWARDS:
            raise ValueError(f"reward must be one of {', '.join(REWARDS)}, not {reward!r}")
        if type(max_turns) is not int or max_turns < 1:
            raise ValueError(f"max_turns must be a whole number of at least 1, not {max_turns!r}")
        if type(show_tests) is not bool:
            raise ValueError(f"show_tests must be true or false, not {show_tests!r}")
        self.judge = Judge(_timeout(timeout_s), isolation)
        self.dataset, self.split, self.task_id = source_of(dataset), split, task_id
        self.max_turns, self.show_tests, self.reward = max_turns, show_tests, reward
        self.rules = (
            "Write Python code that does what is asked. It is run, then tested, within "
            f"{self.judge.timeout_s:g} seconds."
        )
        if not self.tasks:
            ids = [task.task_id for task in read_tasks(self.dataset)]
            raise ValueError(f"MBPP: {self.dataset} has no {split} split: its ids are {min(ids)} to {max(ids)}")

    @property
    def tasks(self) -> tuple[MbppTask, ...]:
        """The tasks that episodes draw from."""
        if self.task_id is not None:
            return (self._with_id(self.task_id),)
        return read_tasks(self.dataset, self.split)

    def _with_id(self, task_id: int) -> MbppTask:
        for task in read_tasks(self.dataset):
            if task.task_id == task_id:
                return task
        raise ValueError(f"MBPP: {self.dataset} has no task_id {task_id!r}")

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.judge.start()
        self.task = self._choose(rng, options or {})
        self.program: str | None = None
        self.verdicts: list[dict[str, Any]] = []
        self.status: str | None = None
        self.turns = 0
        self.current_player: int | None = 0

    def _choose(self, rng: np.random.Generator, options: dict[str, Any]) -> MbppTask:
        tasks = self.tasks
        index = pick(len(tasks), rng)
        if options.get("task_id") is not None:
            return self._with_id(options["task_id"])
        if options.get("index") is not None:
            index = options["index"]
            if type(index) is not int or not 0 <= index < len(tasks):
                raise ValueError(f"MBPP: index must be 0 to {len(tasks) - 1}, not {index!r}")
        return tasks[index]

    def observe(self, player: int) -> str:
        task = self.task
        turn = [f"Turn {self.turns + (self.current_player is not None)} of {self.max_turns}."]
        lines = [*(turn if self.max_turns > 1 else []), task.text]
        if self.show_tests:
            lines += ["Your code must pass these tests:", *filter(None, (task.setup, task.imports)), *task.tests]
        else:
            lines.append(f"It begins: {_first_line(task)}")
        if self.program is not None:
            lines.append(f"Your last program:\n{fenced(shown(self.program, MOST_PROGRAM_SHOWN))}")
            failed = [verdict for verdict in self.verdicts if not verdict["passed"]]
            passed = f"It passed {len(self.verdicts) - len(failed)} of {len(self.verdicts)} tests."
            if failed:
                passed += f" This one failed: {failed[0]['test']}\n{shown(failed[0]['reason'])}"
            lines.append(passed)
        return "\n".join(lines)

    def apply(self, action: str) -> None:
        if self.current_player is None:
            raise IllegalAction(action)
        grade = self.judge.grade(action, self.task.tests, self.task.imports, self.task.setup)
        self.program, self.status = action, grade.result.status
        self.verdicts = [asdict(verdict) for verdict in grade.verdicts]
        self.turns += 1
        if self.passed or self.turns == self.max_turns:
            self.current_player = None

    @property
    def passed(self) -> bool:
        """Whether there was a program, and the last one passed every test."""
        return self.program is not None and all(verdict["passed"] for verdict in self.verdicts)

    def returns(self) -> list[float]:
        if self.reward == "pass" or not self.verdicts:
            return [float(self.passed)]
        return [sum(verdict["passed"] for verdict in self.verdicts) / len(self.verdicts)]

    def reward_terms(self, player: int) -> dict[str, float]:
        return {"tests": self.returns()[0]}

    def outcome(self, player: int) -> str:
        return "solved" if self.passed else "failed"

    def info(self, player: int) -> dict[str, Any]:
        return {
            "task_id": self.task.task_id,
            "dataset": self.dataset,
            "passed": self.passed,
            "tests": [dict(verdict) for verdict in self.verdicts],
            "status": self.status,
        }

    def serialize(self) -> bytes:
        names = ("dataset", "split", "task_id", "max_turns", "show_tests", "reward")
        settings = {name: getattr(self, name) for name in names} | asdict(self.judge)
        seen = self.program, self.verdicts, self.status, self.turns, self.current_player
        return json.dumps([settings, self.task.task_id, seen]).encode()

    @staticmethod
    def deserialize(data: bytes) -> MBPP:
        settings, task_id, seen = json.loads(data)
        game = MBPP(**settings)
        game.task = game._with_id(task_id)
        game.program, game.verdicts, game.status, game.turns, game.current_player = seen
        return game


def _timeout(timeout_s: float | None) -> float:
    named = os.environ.get(TIMEOUT_VARIABLE)
    if timeout_s is not None or not named:
        return TIMEOUT_S if timeout_s is None else timeout_s
    try:
        return float(named)
    except ValueError:
        raise ValueError(f"{TIMEOUT_VARIABLE} must be a number of seconds, not {named!r}") from None


def _first_line(task: MbppTask) -> str:
    """The first line of the function or class that the tests use first."""
    tested = {node.id for node in ast.walk(ast.parse(task.tests[0])) if isinstance(node, ast.Name)}
    for line in task.code.splitlines():
        words = line.replace("(", " ").replace(":", " ").split()
        if len(words) > 1 and words[0] in ("def", "class") and words[1] in tested:
            return line.strip()
    return next(line for line in task.code.splitlines() if line.strip())
