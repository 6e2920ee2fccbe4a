"""Each limit is exact, and a program that reaches one is told which."""

from __future__ import annotations

import pytest

from llm_gym.sandbox import Limits, Pool
from tests.sandbox.conftest import pool_or_skip


@pytest.mark.parametrize("wall_s", [0.2, 0.75, 1.5])
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(100)"])
def test_wall_limit_is_exact_to_a_fifth_of_a_second(pool: Pool, program: str, wall_s: float) -> None:
    result = pool.run(program, limits=Limits(wall_s=wall_s))
    assert (result.status, result.limit) == ("timeout", "wall_s")
    assert wall_s <= result.wall_s < wall_s + 0.2


def test_a_program_that_ends_just_before_its_limit_is_not_cut(pool: Pool) -> None:
    result = pool.run("import time; time.sleep(0.5); print('done')", limits=Limits(wall_s=1.0))
    assert (result.status, result.stdout) == ("ok", "done\n")


def test_processor_time_limit_counts_no_sleep(pool: Pool) -> None:
    limits = Limits(wall_s=10.0, cpu_s=0.3)
    busy = pool.run("while True: pass", limits=limits)
    assert (busy.status, busy.limit) == ("timeout", "cpu_s")
    assert 0.3 <= busy.cpu_s < 0.5
    idle = pool.run("import time; time.sleep(0.6); print('done')", limits=limits)
    assert (idle.status, idle.stdout) == ("ok", "done\n")
    assert idle.wall_s > 0.6 > idle.cpu_s


def test_memory_limit_lets_through_what_is_allowed(pool: Pool) -> None:
    limits = Limits(memory_bytes=100 << 20)
    program = "x = bytearray({} << 20); print(len(x))"
    assert pool.run(program.format(90), limits=limits).stdout == f"{90 << 20}\n"
    refused = pool.run(program.format(101), limits=limits)
    assert (refused.status, refused.limit, refused.signal) == ("memory", "memory_bytes", None)
    assert "MemoryError" in refused.stderr


def test_peak_memory_is_measured(pool: Pool) -> None:
    small, large = pool.run("pass"), pool.run("x = bytearray(50 << 20)")
    assert 48 << 20 < large.peak_bytes - small.peak_bytes < 60 << 20


def test_a_caught_memory_error_is_no_reached_limit(pool: Pool) -> None:
    result = pool.run("try:\n    bytearray(1 << 40)\nexcept MemoryError:\n    print('caught')")
    assert (result.status, result.stdout, result.limit) == ("ok", "caught\n", None)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_limit_lets_through_what_is_allowed(pool: Pool, stream: str) -> None:
    limits = Limits(output_bytes=1000)
    program = f"import sys; sys.{stream}.write('x' * {{}})"
    allowed = pool.run(program.format(1000), limits=limits)
    assert (allowed.status, len(getattr(allowed, stream))) == ("ok", 1000)
    cut = pool.run(program.format(1001), limits=limits)
    assert (cut.status, cut.limit) == ("output_limit", "output_bytes")
    assert getattr(cut, stream) == "x" * 1000


def test_no_file_grows_beyond_the_output_limit(pool: Pool) -> None:
    program = "with open('/tmp/f', 'wb') as file: file.write(b'x' * 2000)"
    result = pool.run(program, limits=Limits(output_bytes=1000))
    assert (result.status, result.signal) == ("output_limit", "SIGXFSZ")


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_process_limit_is_exact(pool: Pool, processes: int) -> None:
    program = """
import os, time
started = 1
try:
    while True:
        if os.fork() == 0:
            time.sleep(100)
        started += 1
except OSError:
    print(started)
"""
    result = pool.run(program, limits=Limits(wall_s=5.0, processes=processes, threads=0))
    assert (result.status, result.stdout) == ("ok", f"{processes}\n")


def test_thread_limit_is_exact(pool: Pool) -> None:
    program = """
import threading, time
started = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        started += 1
except RuntimeError:
    print(started)
"""
    assert pool.run(program, limits=Limits(threads=7)).stdout == "7\n"


def test_a_program_may_not_bring_looser_limits_than_its_pool() -> None:
    with (
        pool_or_skip("full", Limits(memory_bytes=64 << 20)) as pool,
        pytest.raises(ValueError, match="exceeds its pool"),
    ):
        pool.run("pass", limits=Limits(memory_bytes=65 << 20))


@pytest.mark.parametrize(
    "wrong", [{"wall_s": 0}, {"wall_s": -1.0}, {"memory_bytes": 0}, {"processes": 0}, {"cpu_s": 0.0}, {"threads": -1}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)  # type: ignore[arg-type]
