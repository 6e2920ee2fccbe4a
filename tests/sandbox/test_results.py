"""What `run` and `Pool` give back: each status for certain, each program its own result, whatever happens around."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_gym.sandbox import Limits, Pool, Program, probe, run, shared_pool
from llm_gym.sandbox import pool as pool_module
from tests.sandbox.conftest import BOOT, MOST, interpreter_for_everyone, package, pool_or_skip, processes_of

STATUSES = [
    ("print('hi')", "ok", 0),
    ("import sys; sys.exit(0)", "ok", 0),
    ("import sys; sys.exit(3)", "runtime_error", 3),
    ("import sys; sys.exit('why')", "runtime_error", 1),
    ("print(", "syntax_error", None),
    ("if True:\nprint(1)", "syntax_error", None),
    ("return 1", "syntax_error", None),
    ("raise SyntaxError('x')", "runtime_error", 1),
    ("raise IndentationError('x')", "runtime_error", 1),
    ("exec('print(')", "runtime_error", 1),
    ("1 / 0", "runtime_error", 1),
    ("raise MemoryError", "runtime_error", 1),
    ("def f():\n    raise MemoryError('mine')\nf()", "runtime_error", 1),
    ("x = 'a' * 10**12", "memory", None),
    ("try:\n    x = 'a' * 10**12\nexcept MemoryError:\n    raise", "memory", None),
    ("x = list(range(10**9))", "memory", None),
    ("raise KeyboardInterrupt", "runtime_error", 1),
    ("import os; os.kill(os.getpid(), 15)", "killed", None),
    ("", "ok", 0),
]


@pytest.mark.parametrize(("program", "status", "exit_code"), STATUSES, ids=[row[0] for row in STATUSES])
def test_status_is_certain(each_pool: Pool, program: str, status: str, exit_code: int | None) -> None:
    result = each_pool.run(program)
    assert (result.status, result.exit_code) == (status, exit_code), result
    assert result.ok == (status == "ok")


def test_traceback_reads_like_pythons(pool: Pool) -> None:
    result = pool.run("def f(x):\n    return 1 / x\n\nf(0)\n")
    assert result.stderr.startswith('Traceback (most recent call last):\n  File "<program>", line 4, in <module>\n')
    assert "    return 1 / x\n" in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "llm_gym" not in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        "os.chmod('/tmp', 0o500)",
        "os.utime('/tmp', (5, 5))",
        "os.listdir('/tmp')",
        "os.mkdir('/tmp/a')",
        "open('b', 'w')",
    ],
)
def test_tmp_looks_untouched_whatever_was_done_to_it(pool: Pool, change: str) -> None:
    look = "import os; s = os.stat('/tmp'); print(s.st_mode, s.st_nlink, s.st_size, s.st_atime_ns, s.st_mtime_ns)"
    before = pool.run(look).stdout
    assert pool.run(f"import os; {change}").ok
    assert pool.run(f"{look}\nprint(os.listdir('/tmp'))").stdout == before + "[]\n"


def test_stdin_is_read(pool: Pool) -> None:
    program = "a, b = map(int, input().split())\nprint(a + b)\nimport sys\nprint(repr(sys.stdin.read()))"
    assert pool.run(program, stdin="20 22\nünd mehr\n").stdout == "42\n'ünd mehr\\n'\n"
    assert pool.run("input()").stderr.endswith("EOFError: EOF when reading a line\n")


@pytest.mark.parametrize(
    "text", ["print(1)\0", "\ud800", "# \ud800\nprint(1)", b"\xff\xfe", "x" * 2_000_000, "\u202e", "\r\n"]
)
def test_no_text_breaks_anything(pool: Pool, text: str | bytes) -> None:
    assert pool.run(text).status in ("syntax_error", "runtime_error", "ok", "output_limit")
    result = pool.run("import sys; print(len(sys.stdin.buffer.read()))", stdin=text)
    expected = len(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    assert result.stdout == f"{expected}\n"


def test_program_is_main_with_nothing_of_the_server_about(pool: Pool) -> None:
    program = (
        "import sys, os\n"
        "print(__name__, sys.argv, os.getcwd(), [m for m in sys.modules if 'llm' in m], sys.path[0][:5])\n"
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A, os.uname().nodename)"
    )
    lines = pool.run(program).stdout.splitlines()
    assert lines[0].startswith("__main__ ['<program>'] /tmp [] ")
    assert lines[1] == "True sandbox"


def test_hash_seed_is_fixed_and_chosen_per_program(pool: Pool) -> None:
    program = "print([hash(word) for word in ('a', 'b', 'c')], {'x', 'y', 'z', 'w', 'v'})"
    first, again, other = (pool.run(program, hash_seed=seed).stdout for seed in (0, 0, 1))
    assert first == again != other
    assert pool.run("print(sorted({'x', 'y'}))", hash_seed=1).stdout == "['x', 'y']\n"


@pytest.mark.parametrize(
    "module", ["import random; print(random.random())", "from random import random as r\nprint(r())"]
)
def test_random_numbers_differ_between_programs(pool: Pool, module: str) -> None:
    assert len({pool.run(module).stdout for _ in range(5)}) == 5


def test_map_keeps_the_order_and_submit_runs_at_once(pool: Pool) -> None:
    with pool_or_skip("full", MOST, workers=3) as many:
        programs = [
            Program(f"import time; time.sleep({0.01 * (i % 3)}); print(input(), {i})", stdin=f"in{i}")
            for i in range(30)
        ]
        assert [result.stdout for result in many.map(programs)] == [f"in{i} {i}\n" for i in range(30)]
        started = time.monotonic()
        futures = [many.submit("import time; time.sleep(0.5)") for _ in range(3)]
        assert all(future.result().ok for future in futures)
        assert time.monotonic() - started < 1.4


def test_threads_share_a_pool_without_mixing_results(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda i: pool.run("print(input())", stdin=str(i)).stdout, range(100)))
    assert results == [f"{i}\n" for i in range(100)]


def test_server_outlives_the_thread_that_started_it(each_pool: Pool) -> None:
    starter = threading.Thread(target=each_pool.run, args=("pass",), kwargs={"hash_seed": 77})
    starter.start()
    starter.join()
    before = sorted(map(str, processes_of(each_pool)))
    time.sleep(0.1)
    assert each_pool.run("print(1)", hash_seed=77).stdout == "1\n"
    assert sorted(map(str, processes_of(each_pool))) == before


def test_a_killed_server_is_replaced_and_its_program_run_again() -> None:
    with pool_or_skip("full", Limits(memory_bytes=77 << 20)) as pool:
        future = pool.submit("import time; time.sleep(0.5); print('done')")
        [[watcher, server]] = _families_of_busy(pool)
        os.kill(server, signal.SIGKILL)
        assert future.result().stdout == "done\n"
        [family] = processes_of(pool)
        os.kill(family[0], signal.SIGKILL)
        assert pool.run("print('again')").stdout == "again\n"
        assert not Path(f"/proc/{watcher}").exists()


def _families_of_busy(pool: Pool) -> list[list[int]]:
    """Processes of the pool's servers while they run programs: children of this process, and theirs."""
    time.sleep(0.2)
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    watchers = [pid for pid, parent in parents.items() if parent == os.getpid() and _runs_server(pid, pool)]
    return [[watcher, child] for watcher in watchers for child, parent in parents.items() if parent == watcher]


def _runs_server(pid: int, pool: Pool) -> bool:
    return f'"limits": {list(pool.limits.sizes)}'.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


def in_a_fork(work: Callable[[], bool]) -> bytes:
    """What `work` returns in a process forked from this one: b"True" or b"False"; b"" if it does not end in time."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            os.write(write_end, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def test_a_forked_process_gets_servers_of_its_own(pool: Pool) -> None:
    assert pool.run("print('parent')").ok
    before = processes_of(pool)

    def use_it() -> bool:
        ran = pool.run("print('child')").stdout == "child\n"
        own = processes_of(pool)
        pool.close()
        return ran and len(own) == 1 and own[0] not in before

    assert in_a_fork(use_it) == b"True"
    assert pool.run("print('parent')").stdout == "parent\n"
    assert processes_of(pool) == before


@pytest.mark.parametrize("shared", [False, True])
def test_a_process_forked_while_a_thread_holds_the_locks_can_run_programs(shared: bool) -> None:
    pool = shared_pool("best_effort")
    locks = [pool_module._shared_lock, pool._lock]
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with locks[0], locks[1], pool._free:
            held.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        result = in_a_fork(lambda: (run("pass", isolation="best_effort") if shared else pool.run("pass")).ok)
    finally:
        over.set()
        holder.join()
    assert result == b"True"


OWNER = """
from llm_gym.sandbox import Pool
pool = Pool(isolation=sys.argv[2])
future = pool.submit("import time; time.sleep(0.7)")
import os, time
time.sleep(0.5)
if os.fork() == 0:
    os.close(1)
    os.close(2)
    time.sleep(1)
    os._exit(0)
print(os.getpid(), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("isolation", ["full", "container"])
def test_servers_die_with_their_owner_however_it_ends(isolation: str) -> None:
    interpreter = interpreter_for_everyone()
    if interpreter is None:
        pytest.skip("no interpreter that everyone may start")
    owner = subprocess.run(
        [interpreter, "-S", "-c", BOOT + OWNER, package(), isolation], capture_output=True, text=True, timeout=30
    )
    if "SandboxUnavailable" in owner.stderr:
        pytest.skip(owner.stderr.strip().rpartition("\n")[2])
    assert owner.returncode == -signal.SIGKILL
    parent = f'"parent": {int(owner.stdout)},'.encode()
    deadline = time.monotonic() + 0.9
    while left := [
        entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and _mentions(entry, parent)
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert not left


def _mentions(process: Path, text: bytes) -> bool:
    try:
        return text in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_run_keeps_a_pool_warm() -> None:
    pool_or_skip("full", Limits()).close()
    assert run("print(input())", stdin="hello").stdout == "hello\n"
    assert run("while True: pass", limits=Limits(wall_s=0.2)).limit == "wall_s"
    assert run("x = bytearray(300 << 20); print(len(x))", limits=Limits(memory_bytes=400 << 20)).ok


def test_a_forgotten_pool_takes_its_servers_with_it() -> None:
    pool = pool_or_skip("full", MOST)
    [family] = processes_of(pool)
    del pool
    gc.collect()
    deadline = time.monotonic() + 2
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not Path(f"/proc/{family[0]}").exists()


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_hash_seed_out_of_range_is_refused(pool: Pool, seed: int) -> None:
    with pytest.raises(ValueError, match="hash_seed"):
        pool.run("pass", hash_seed=seed)


def test_closed_pool_says_so() -> None:
    pool = Pool()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.run("pass")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"isolation": "none"}])
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Pool(**wrong)  # type: ignore[arg-type]


def test_probe_tries_every_layer(pool: Pool) -> None:
    layers = {layer.name: layer for layer in probe()}
    expected = ["user", "mount", "pid", "net", "ipc", "uts"]
    assert list(layers)[:8] == [*(f"{name} namespace" for name in expected), "landlock", "seccomp"]
    assert layers["isolation='full'"].holds
    assert all(layer.detail for layer in layers.values())
    assert all(layer.holds for layer in layers.values() if "=" not in layer.name), layers
