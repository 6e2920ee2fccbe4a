"""Many programs at full speed, a tenth of them hostile: none is lost or mixed up, and memory stays where it was."""

from __future__ import annotations

import random

import pytest

from llm_gym.sandbox import Limits, Pool, Program
from tests.sandbox.conftest import pool_or_skip, processes_of, resident_bytes

LIMITS = Limits(wall_s=10.0, memory_bytes=64 << 20, output_bytes=10_000, threads=8)
SHORT = Limits(wall_s=0.15, memory_bytes=64 << 20, output_bytes=10_000, threads=8)
# Hostile programs and the status each must end with. Those that end by time are few, for the soak's sake.
QUICK_HOSTILE = [
    ("import os\nwhile True: os.fork()", "runtime_error"),
    ("x = bytearray(10**10)", "memory"),
    ("print('x' * 10**6)", "output_limit"),
    ("import ctypes\nctypes.string_at(0)", "killed"),
    ("import os\nos._exit(9)", "runtime_error"),
    ("import os\ntry: os.kill(1, 9); os.kill(-1, 9)\nexcept OSError: pass", "ok"),
    ("import os\nfor i in range(50): os.makedirs(f'/tmp/{i}/x'); os.chmod(f'/tmp/{i}', 0)", "ok"),
    ("import builtins\nfor n in dir(builtins): setattr(builtins, n, None)", "runtime_error"),
    ("open('/etc/passwd')", "runtime_error"),
    ("import socket\nsocket.socket()", "runtime_error"),
    ("import os\nos.closerange(0, 64)", "ok"),
    ("def f(: pass", "syntax_error"),
    ("import os\nfor fd in range(64):\n    try: os.write(fd, b'forged')\n    except OSError: pass", "ok"),
]
SLOW_HOSTILE = ("while True: pass", "timeout")


def soak(pool: Pool, programs: int, rng: random.Random) -> None:
    """Run that many; each honest one must print what only it was asked, each hostile one must end as it has to."""
    jobs, expected = [], []
    for number in range(programs):
        if number % 10 == 9:
            source, status = SLOW_HOSTILE if rng.random() < 0.02 else rng.choice(QUICK_HOSTILE)
            jobs.append(Program(source, limits=SHORT if status == "timeout" else LIMITS))
            expected.append((status, None))
        else:
            word = f"{number}-{rng.random()}"
            jobs.append(Program(f"import sys\nprint(input(), {number} * 2)\nsys.stderr.write('e{number}')", stdin=word))
            expected.append(("ok", (f"{word} {number * 2}\n", f"e{number}")))
    for number, (result, (status, output)) in enumerate(zip(pool.map(jobs), expected, strict=True)):
        assert result.status == status, (number, jobs[number], result)
        assert output is None or (result.stdout, result.stderr) == output, (number, jobs[number], result)


def test_five_hundred_programs_two_at_a_time() -> None:
    with pool_or_skip("full", LIMITS, workers=2) as pool:
        soak(pool, 500, random.Random(1))
        assert all(len(family) == 2 for family in processes_of(pool))


@pytest.mark.slow
def test_twenty_thousand_programs_in_memory_that_stays_flat() -> None:
    with pool_or_skip("full", LIMITS, workers=2) as pool:
        rng = random.Random(2)
        for _ in range(5):
            soak(pool, 2000, rng)
        families = sorted(processes_of(pool))
        pids = [pid for family in families for pid in family]
        halfway = [resident_bytes(pid) for pid in pids]
        for _ in range(5):
            soak(pool, 2000, rng)
        assert sorted(processes_of(pool)) == families, "a server had to be restarted"
        grown = [resident_bytes(pid) - before for before, pid in zip(halfway, pids, strict=True)]
        assert max(grown) < 512 << 10, grown
