"""Verdicts that a solution cannot forge, and that agree with running the test itself."""

# ruff: noqa: E501 - each solution on as few lines as it has

from __future__ import annotations

import ast
import math
import random
from typing import Any

import pytest

from llm_gym.sandbox import Limits, Pool, run_tests
from llm_gym.sandbox.worker import plain

RIGHT = "def f(x):\n    return x * 2"
TESTS = ["assert f(2) == 4", "assert f('a') == 'aa'", "assert f([1]) == [1, 1]"]


def verdicts(pool: Pool, solution: str, tests: list[str], **options: Any) -> list[bool]:
    return [verdict.passed for verdict in run_tests(solution, tests, pool=pool, **options).verdicts]


def test_right_and_wrong_solutions(pool: Pool) -> None:
    assert run_tests(RIGHT, TESTS, pool=pool).passed
    grade = run_tests("def f(x):\n    return x + x if x != 'a' else 'b'", TESTS, pool=pool)
    assert [verdict.passed for verdict in grade.verdicts] == [True, False, True]
    assert not grade.passed
    assert grade.verdicts[1].reason == "got 'b', expected it == 'aa'"


# Each is a whole test and a solution for which Python itself says that it holds, then one for which it does not.
FORMS = [
    ("assert f(1) == 3", "def f(x): return 3", "def f(x): return 4"),
    ("assert 3 == f(1)", "def f(x): return 3", "def f(x): return '3'"),
    ("assert f(1) == 3, 'why'", "def f(x): return 3.0", "def f(x): return None"),
    (
        "assert (f(1)) == (1, [2], {'a': {3}})",
        "def f(x): return (1, [2], {'a': {3}})",
        "def f(x): return [1, [2], {'a': {3}}]",
    ),
    ("assert set(f(1)) == set([1, 2])", "def f(x): return [2, 1, 1]", "def f(x): return [1]"),
    ("assert f(1)", "import re\ndef f(x): return re.match('a', 'a')", "def f(x): return None"),
    ("assert not f(1)", "def f(x): return []", "class T: pass\ndef f(x): return T()"),
    ("assert f(1) is None", "def f(x): pass", "def f(x): return 0"),
    ("assert math.isclose(f(1), 1/3, rel_tol=0.001)", "def f(x): return 0.33333", "def f(x): return 0.34"),
    ("assert abs(f(1) - 0.5) < 1e-6", "def f(x): return 0.5", "def f(x): return 0.51"),
    ("assert f(1) in (1, 2)", "def f(x): return 2", "def f(x): return 3"),
    ("assert f(1) == 3 and not f(2) == 3", "def f(x): return 3 if x == 1 else 4", "def f(x): return 3"),
    ("assert list(f(2)) == [0, 1]", "def f(x):\n    yield from range(x)", "def f(x):\n    yield from range(x + 1)"),
    ("assert [f(x) for x in range(3)] == [0, 2, 4]", "def f(x): return 2 * x", "def f(x): return x"),
    ("assert f(f(1)) == 4", "def f(x): return 2 * x", "def f(x): return 3 * x"),
    ("assert f(1) == g(1)", "def f(x): return 1\ndef g(x): return 1", "def f(x): return 1\ndef g(x): return 2"),
    ("assert f(1)['a'][0] == 7", "def f(x): return {'a': [7]}", "def f(x): return {'a': [8]}"),
    (
        "assert A(2).double() == 4",
        "class A:\n    def __init__(s, x): s.x = x\n    def double(s): return 2 * s.x",
        "class A:\n    def __init__(s, x): pass\n    def double(s): return 2",
    ),
    ("assert isinstance(f(1), float)", "def f(x): return 1.0", "def f(x): return 1"),
    ("assert all(x > 0 for x in f(1))", "def f(x): return [1, 2]", "def f(x): return [1, -2]"),
    ("assert any(f(x) for x in range(3))", "def f(x): return x == 2", "def f(x): return x > 2"),
    ("assert f(1).value == 5", "class A: value = 5\ndef f(x): return A()", "class A: value = 6\ndef f(x): return A()"),
    ("assert sorted(f(1), key=lambda p: -p) == [2, 1]", "def f(x): return {1, 2}", "def f(x): return {1, 3}"),
    ("assert len(f(1)) > 2", "def f(x): return 'abc'", "def f(x): return 'ab'"),
    ("assert f(10) == 10 ** 10000", "def f(x): return x ** 10000", "def f(x): return x ** 9999"),
    ("assert f(1) == set(range(5000))", "def f(x): return set(range(5000))", "def f(x): return set(range(4999))"),
    ("assert f(1) == float('inf')", "def f(x): return float('inf')", "def f(x): return 1e308"),
    ("assert f(1) != f(1)", "def f(x): return float('nan')", "def f(x): return 1.0"),
    ("assert sum(10, 15) == 25", "def sum(a, b): return a + b", "def sum(a, b): return a * b"),
    ("assert set(max([1, 2])) == set((2, 1))", "def max(x): return x", "def max(x): return [3]"),
    (
        "assert f(1) == {'a': 1}",
        "from collections import Counter\ndef f(x): return Counter('a')",
        "def f(x): return {'a': 2}",
    ),
    (
        "assert f(1) == (1, 2)",
        "from collections import namedtuple\ndef f(x): return namedtuple('P', 'x y')(1, 2)",
        "def f(x): return (1, 3)",
    ),
    ("assert f(b'a') == b'aa'", RIGHT, "def f(x): return 'aa'"),
    ("assert f(2)==4 if True else f(3)", RIGHT, "def f(x): return 0"),
]


@pytest.mark.parametrize(("test", "right", "wrong"), FORMS, ids=[form[0] for form in FORMS])
def test_every_form_of_test_is_judged_as_python_would(pool: Pool, test: str, right: str, wrong: str) -> None:
    for solution, expected in ((right, True), (wrong, False)):
        namespace: dict[str, Any] = {"math": math}
        exec(solution, namespace)
        try:
            exec(test, namespace)
            held = True
        except AssertionError:
            held = False
        assert held is expected
        assert verdicts(pool, solution, [test], imports="import math") == [expected]


FORGERIES = {
    "leaves with success": "import os\nos._exit(0)",
    "leaves by sys.exit": "import sys\nsys.exit(0)",
    "leaves in the function": "def f(x):\n    import os\n    os._exit(0)",
    "equals everything": "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef f(x): return E(7)",
    "compares as it likes": "class E:\n    def __eq__(s, o): return True\n    __lt__ = __gt__ = __contains__ = __eq__\n    def __bool__(s): return False\ndef f(x): return E()",
    "equals everything, no int": "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()",
    "patches builtins": "import builtins\nbuiltins.all = builtins.bool = lambda *a: True\nbuiltins.AssertionError = ValueError\ndef f(x): return 0",
    "patches its judge": "import sys, gc\nfor t in gc.get_objects():\n    if type(t).__name__ == 'function' and t.__name__ in ('encode', '_value_of', '_node'):\n        t.__code__ = (lambda *a: 'true').__code__\ndef f(x): return 0",
    "writes answers of its own": 'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'[["value", 0, "true"]]\\n\' * 3)\n    except OSError: pass\nos._exit(0)',
    "looks for what is expected": "import gc, sys\nfound = [o for o in gc.get_objects() if isinstance(o, dict) and 'tests' in o]\nframe = sys._getframe()\ntexts = []\nwhile frame:\n    texts.append(str(frame.f_locals)); frame = frame.f_back\nassert '-31337' not in ''.join(texts) and not found\ndef f(x): return None",
    "reads the memory it runs in": "import ctypes, gc\ndef f(x):\n    hits = [o for o in gc.get_objects() if type(o) is list and -31337 in o[:5]]\n    return hits[0] if hits else 0",
    "swallows the test": "def f(x):\n    raise SystemExit(0)",
    "answers with a bomb": "def f(x):\n    y = []\n    for _ in range(5000): y = [y]\n    return y",
    "holds itself": "def f(x):\n    y = []\n    y.append(y)\n    return y",
    "answers without end": "def f(x): return 'x' * 10**8",
    "colliding keys": "def f(x): return {i * (2**61 - 1) for i in range(10**5)}",
    "never answers": "def f(x):\n    while True: pass",
    "does not compile": "def f(x) return 4",
    "fails": "def f(x): return 1 / 0",
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=list(FORGERIES))
def test_no_verdict_is_forged(pool: Pool, forgery: str) -> None:
    tests = ["assert f(2) == -31337", "assert f('a') == [-31337, 4]", "assert f(3) == {-31337: 'x'}"]
    grade = run_tests(forgery, tests, pool=pool, limits=Limits(wall_s=1.0))
    assert [verdict.passed for verdict in grade.verdicts] == [False, False, False]
    assert all(verdict.reason for verdict in grade.verdicts)
    assert run_tests(RIGHT, TESTS, pool=pool).passed


def test_tests_before_one_that_hangs_keep_their_verdicts(pool: Pool) -> None:
    grade = run_tests("def f(x):\n    while x == 2: pass\n    return x", ["assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3"], pool=pool, limits=Limits(wall_s=0.5))  # fmt: skip
    assert [verdict.passed for verdict in grade.verdicts] == [True, False, False]
    assert grade.result.status == "timeout"
    assert grade.verdicts[1].reason == "timeout: the limit wall_s was reached"


def test_imports_come_before_the_solution_and_setup_after(pool: Pool) -> None:
    solution = (
        "class Node:\n    def __init__(self, v): self.v = v\nroot_value = math.floor(2.5)\ndef f(node): return node.v"
    )
    setup = "root = Node(5)"
    assert verdicts(
        pool, solution, ["assert f(root) == 5", "assert root_value == 2"], imports="import math", setup=setup
    ) == [True, True]


def test_solution_is_not_main_and_may_print(pool: Pool) -> None:
    solution = (
        "print('loading')\ndef f(x):\n    print('at work')\n    return x\nif __name__ == '__main__':\n    input()"
    )
    grade = run_tests(solution, ["assert f(1) == 1"], pool=pool)
    assert grade.passed
    assert grade.result.stdout == "loading\nat work\n"


@pytest.mark.parametrize("test", ["f(1) == 2", "assert f(1) ==", "assert f(1)\nassert f(2)", ""])
def test_what_is_no_assert_is_refused(pool: Pool, test: str) -> None:
    with pytest.raises(ValueError, match="assert"):
        run_tests(RIGHT, [test], pool=pool)


def test_no_tests_at_all_say_whether_the_solution_runs(pool: Pool) -> None:
    assert run_tests(RIGHT, [], pool=pool).result.ok
    assert run_tests("1 / 0", [], pool=pool).result.status == "runtime_error"


def _random_value(rng: random.Random, depth: int) -> Any:
    scalars = [None, True, False, 0, -5, 2**70, -(2**200), 1.5, float("inf"), -0.0, "", "ä\ud800\0", b"\xff", 3 + 4j]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(scalars)
    items = [_random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = [item for item in scalars if rng.random() < 0.4]
    return rng.choice(
        [items, tuple(items), set(keys), frozenset(keys), dict(zip(keys, items, strict=False)), bytearray(b"a")]
    )


def test_plain_data_survives_the_crossing() -> None:
    rng = random.Random(0)
    for _ in range(500):
        value = _random_value(rng, 4)
        back = plain.decode(plain.encode(value))
        assert repr(back) == repr(value) or back == value
        assert type(back) is type(value)


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", '["list"]', '["int", 5]', '["nothing", []]', "1" * 100, "1.5", "NaN", '["set", [["list", []]]]', "[" * 10**5,
     '["dict", [[1]]]', '["float", "x"]', '["int", "' + "z" * 9 + '"]', '["set", [' + ",".join(map(str, range(3000))) + "]]"],
)  # fmt: skip
def test_what_is_not_plain_data_is_refused(text: str) -> None:
    with pytest.raises(plain.NotPlain):
        plain.decode(text, most_hashed=2000)


def test_expected_values_never_reach_the_solutions_process() -> None:
    from llm_gym.sandbox.grading.operands import operands_source, split_tests

    tests = (
        "assert f(2) == 31337",
        "assert set(f('a')) == set([31337])",
        "assert math.isclose(f(1), 31337.5)",
        "assert not f(3)",
        "assert f(4) in (31337, 2)",
        "assert all(x == 31337 for x in f(5))",
        "assert isinstance(f(6), int) and max(f(6)) < 31337",
        "assert [x for x in f(7) if x != 31337] == []",
        "assert f(8).value == 31337",
    )
    source = operands_source(split_tests(tests, "import math"))
    assert "31337" not in source
    assert ast.parse(source, mode="eval")
