"""Runs all tests of a solution in one process, and judges them outside it.

A test such as `assert f(2) == 4` is split into what the solution computes (`f(2)`, an operand) and the rest, which is
the test author's. Only operands go to the solution's process, which never sees an expected value and sends
back values as plain data. The rest is evaluated where no line of the solution has run: simple comparisons here,
anything else in a fresh process of the sandbox.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_gym.sandbox.grading.judging import Unjudged, judge_here
from llm_gym.sandbox.grading.operands import HOLES, SplitTest, operands_source, split_tests
from llm_gym.sandbox.pool import Pool, shared_pool
from llm_gym.sandbox.results import Isolation, Limits, Result
from llm_gym.sandbox.worker import plain

# A set or dict of more keys is compared in the sandbox, for keys that all collide would keep this process busy
# for minutes.
_MOST_HASHED = 2000
_PLAIN_SOURCE = Path(plain.__file__).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Verdict:
    """The result of one test.

    Attributes:
        test: The test as it was given.
        passed: Whether it held.
        reason: Why it did not hold, in a line that helps to repair the solution; empty if it held.
    """

    test: str
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Grade:
    """The results of all tests of one solution.

    Attributes:
        verdicts: One a test, in order.
        result: How the solution's process ended: `status`, what it printed, what it used.
    """

    verdicts: tuple[Verdict, ...]
    result: Result

    @property
    def passed(self) -> bool:
        """Whether every test held."""
        return all(verdict.passed for verdict in self.verdicts)


def run_tests(
    solution: str,
    tests: Sequence[str],
    imports: str = "",
    setup: str = "",
    limits: Limits | None = None,
    pool: Pool | None = None,
    isolation: Isolation = "full",
) -> Grade:
    """Grade an untrusted solution by trusted `assert` statements.

    Args:
        solution: Python source. It runs once, under the name `solution`, before the first test.
        tests: Each one `assert` statement. What one changes, the next sees.
        imports: Statements that run before the solution, and before tests that are evaluated without it.
        setup: Statements that run after the solution, with its names.
        limits: For the solution and all tests together.
        pool: The pool to run on; if None, one that this process keeps warm, with `isolation`.
        isolation: See `Pool`.

    Raises:
        ValueError: A test is not one `assert` statement.
        SandboxUnavailable: The requested isolation is not available here.
    """
    pool = pool or shared_pool(isolation, limits)
    split = split_tests(tuple(tests), imports)
    result, answers = pool.evaluate(solution, operands_source(split), imports, setup, limits)
    lines = answers.split(b"\n")[:-1]
    verdicts = []
    for number, test in enumerate(split):
        if number < len(lines):
            verdicts.append(_judge(test, lines[number], imports, pool))
        else:
            verdicts.append(Verdict(test.source, False, _why_not_reached(result)))
    return Grade(tuple(verdicts), result)


def _why_not_reached(result: Result) -> str:
    if result.limit:
        return f"{result.status}: the limit {result.limit} was reached"
    last_line = result.stderr.strip().rpartition("\n")[2]
    if result.status in ("syntax_error", "runtime_error") and last_line:
        return last_line[:500]
    return f"the process ended before this test ({result.signal or f'exit status {result.exit_code}'})"


def _judge(test: SplitTest, line: bytes, imports: str, pool: Pool) -> Verdict:
    """Judge one test. The line comes from the solution's process, so it may hold any bytes."""
    try:
        answers = plain.parse(line.decode())
        if not isinstance(answers, list) or len(answers) != len(test.operands):
            raise plain.NotPlain("not one answer an operand")
        chosen, nodes = [], []
        for (kind, which, node), forms in zip(answers, test.operands, strict=True):
            if kind != "value" or type(which) is not int or not 0 <= which < len(forms):
                return Verdict(test.source, False, node if isinstance(node, str) and node else "no value")
            chosen.append(which)
            nodes.append(node)
    except (ValueError, TypeError) as error:
        return Verdict(test.source, False, f"unreadable answer: {str(error)[:200]}")
    return Verdict(test.source, *_held(test.with_holes(tuple(chosen)), nodes, imports, pool))


def _held(statement: ast.expr, nodes: list[Any], imports: str, pool: Pool) -> tuple[bool, str]:
    held = None
    try:
        held = judge_here(statement, [plain.rebuild(node, _MOST_HASHED) for node in nodes])
    except (Unjudged, plain.NotPlain):
        pass
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"[:500]
    if held:
        return True, ""
    try:
        encoded = [json.dumps(node) for node in nodes]
    except RecursionError:
        return False, "unreadable answer: nested too deeply"
    if held is None:
        return _judge_in_sandbox(statement, encoded, imports, pool)
    return False, _difference(statement, encoded)


def _difference(statement: ast.expr, encoded: list[str]) -> str:
    """What the solution gave and, if the test is a simple comparison, what was expected."""
    got = ", ".join(repr(plain.decode(text)) if len(text) < 1000 else f"{text[:300]}..." for text in encoded)
    if isinstance(statement, ast.Compare) and isinstance(statement.ops[0], ast.Eq) and len(encoded) == 1:
        return f"got {got}, expected {ast.unparse(statement)}".replace("_holes[0]", "it")[:1000]
    return f"got {got}"[:1000]


def _judge_in_sandbox(statement: ast.expr, encoded: list[str], imports: str, pool: Pool) -> tuple[bool, str]:
    """In a fork that has never seen the solution, with its values as data."""
    values = json.dumps(json.dumps(encoded))
    result, answers = pool.evaluate(
        f"{_PLAIN_SOURCE}\n{HOLES} = [decode(text) for text in json.loads({values})]",
        f"(((lambda: bool({ast.unparse(statement)}),),),)",
        setup=f"import math\n{imports}",
    )
    try:
        [[kind, _, node]] = json.loads(answers)
    except ValueError:
        return False, _why_not_reached(result)
    if kind != "value":
        return False, node
    return (True, "") if node is True else (False, _difference(statement, encoded))
