"""Runs many programs at once, on warm servers that start when they are first needed."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import NamedTuple

from llm_gym.sandbox.results import Isolation, Limits, Result
from llm_gym.sandbox.warm import ServerDied, ServerSettings, WarmServer
from llm_gym.sandbox.worker import wire

# What programs of this kind import most. A module takes a fifth of a microsecond a page from every program, and saves
# what importing it takes: `dataclasses`, which brings `inspect`, is worth it where one program in 150 uses it.
# fmt: off
PRELOAD = (
    "bisect", "collections", "copy", "functools", "heapq", "itertools", "json", "math", "operator", "random", "re",
    "string", "time", "typing",
)
# fmt: on


class Program(NamedTuple):
    """One program for `Pool.map`; a bare string stands for a program without input."""

    source: str | bytes
    stdin: str | bytes = ""
    limits: Limits | None = None
    hash_seed: int | None = None


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Runs untrusted programs, several at once, each in its own process, which a warm server forks.

    Safe to use from several threads. A process forked while a pool exists gets servers of its own when it first uses
    the pool. Servers end with the pool, and with the process that owns it, however that ends.

    Args:
        workers: How many programs run at once.
        limits: For programs that bring none. A program may bring tighter sizes, and any times.
        isolation: `full`: namespaces, Landlock and seccomp, or SandboxUnavailable. `container`: Landlock and seccomp,
            where a container allows no namespaces, or SandboxUnavailable. `best_effort`: whichever of these hold here;
            `layers` says which.
        preload: Modules to import once, before the first program. Installed packages are visible to programs only if
            named here.
        hash_seed: PYTHONHASHSEED of programs that bring none. Every seed in use has its own servers.
        temporary_bytes: Size of the /tmp a program gets, empty, for itself.
        interpreter: The Python that runs the programs; this one, unless given.
    """

    def __init__(
        self,
        workers: int = 1,
        limits: Limits | None = None,
        isolation: Isolation = "full",
        preload: Iterable[str] = PRELOAD,
        hash_seed: int = 0,
        temporary_bytes: int = 16 << 20,
        interpreter: str | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if isolation not in ("full", "container", "best_effort"):
            raise ValueError(f"isolation must be 'full', 'container' or 'best_effort', got {isolation!r}")
        self.workers = workers
        self.limits = limits or Limits()
        self._hash_seed = hash_seed
        self._settings = (isolation, interpreter or sys.executable, tuple(preload))
        self._temporary_bytes = temporary_bytes
        self._closed = False
        self._keep = True
        self._begin_in_this_process()
        _pools.add(self)

    def _begin_in_this_process(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(self.workers)
        self._idle: dict[int, list[WarmServer]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._layers: tuple[str, ...] | None = None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the pool is closed")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in force, of `namespaces`, `landlock`, `seccomp`. Starts a server if none has run yet."""
        self._check_open()
        if self._layers is None:
            with self._free:
                self._put_back(self._hash_seed, self._server(self._hash_seed))
        assert self._layers is not None
        return self._layers

    def run(
        self, program: str | bytes, stdin: str | bytes = "", limits: Limits | None = None, hash_seed: int | None = None
    ) -> Result:
        """Run one program and wait for it.

        Raises:
            SandboxUnavailable: The requested isolation is not available here.
        """
        return self._execute(_encoded(program), _encoded(stdin), limits, hash_seed, wire.RUN)[0]

    def evaluate(
        self, solution: str, operands: str, imports: str = "", setup: str = "", limits: Limits | None = None
    ) -> tuple[Result, bytes]:
        """Define a solution and evaluate operands of `run_tests`; what its process answers is not to be trusted."""
        parts = [_encoded(part) for part in (imports, solution, setup, operands)]
        job = b"".join([wire.JOB.pack(*map(len, parts)), *parts])
        return self._execute(job, b"", limits, None, wire.TESTS)

    def submit(
        self, program: str | bytes, stdin: str | bytes = "", limits: Limits | None = None, hash_seed: int | None = None
    ) -> Future[Result]:
        """Run one program in the background."""
        self._check_open()
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="llm_gym.sandbox")
        return self._threads.submit(self.run, program, stdin, limits, hash_seed)

    def map(self, programs: Iterable[str | Program]) -> Iterator[Result]:
        """Run many programs at once; results come in the order of the programs."""
        jobs = [Program(program) if isinstance(program, str) else program for program in programs]
        futures = [self.submit(*job) for job in jobs]
        # Woken once, not for every program.
        wait(futures)
        yield from [future.result() for future in futures]

    def _execute(
        self, program: bytes, stdin: bytes, limits: Limits | None, hash_seed: int | None, mode: int
    ) -> tuple[Result, bytes]:
        self._check_open()
        seed = self._hash_seed if hash_seed is None else hash_seed
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"hash_seed must be in [0, 2**32), got {seed}")
        limits = limits or self.limits
        if limits is not self.limits and any(
            own > most for own, most in zip(limits.sizes, self.limits.sizes, strict=True)
        ):
            raise ValueError(f"{limits} exceeds its pool's memory, output, processes or threads: {self.limits}")
        with self._free:
            for _ in range(2):
                server = self._server(seed)
                try:
                    outcome = server.execute(program, stdin, limits, mode)
                except ServerDied:
                    server.close()
                    continue
                except BaseException:
                    # Interrupted between question and answer: the next program must not get this one's.
                    server.close()
                    raise
                self._put_back(seed, server)
                return outcome
        # Two servers died with it, which only the kernel's out-of-memory killer or a user can cause.
        return Result("killed", "", "", 0.0, 0.0, 0, signal="SIGKILL"), b""

    def _server(self, seed: int) -> WarmServer:
        with self._lock:
            idle = self._idle.get(seed)
            if idle:
                return idle.pop()
        isolation, interpreter, preload = self._settings
        server = WarmServer(ServerSettings(isolation, interpreter, preload, seed, self._temporary_bytes, self.limits))
        self._layers = server.layers
        return server

    def _put_back(self, seed: int, server: WarmServer) -> None:
        with self._lock:
            if self._keep:
                self._idle.setdefault(seed, []).append(server)
                return
        server.close()

    def let_servers_go(self) -> None:
        """Keep no server warm from now on: idle servers end now, busy ones after their program."""
        with self._lock:
            self._keep = False
            servers = [server for idle in self._idle.values() for server in idle]
            self._idle.clear()
        for server in servers:
            server.close()

    def close(self) -> None:
        """End all servers. A program that is still running ends with its limit or by itself first."""
        if self._closed:
            return
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown()
        self.let_servers_go()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _encoded(text: str | bytes) -> bytes:
    # A lone surrogate is passed on: the compiler, or the program that reads it, refuses it.
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


_SHARED_AT_MOST = 4
_shared: dict[tuple[Isolation, tuple[int, ...]], Pool] = {}
_shared_lock = threading.Lock()


def shared_pool(isolation: Isolation, limits: Limits | None = None) -> Pool:
    """The pool behind `run` and `run_tests`, which this process keeps warm: one worker a core, ended at exit.

    There is one for each isolation and each `Limits.sizes`. Programs may bring other times than `limits`.
    """
    limits = limits or Limits()
    key = (isolation, limits.sizes)
    with _shared_lock:
        pool = _shared.get(key)
        if pool is None:
            pool = _shared[key] = Pool(workers=os.cpu_count() or 1, limits=limits, isolation=isolation)
            atexit.register(pool.close)
            if len(_shared) > _SHARED_AT_MOST:
                oldest = _shared.pop(next(iter(_shared)))
                atexit.unregister(oldest.close)
                oldest.let_servers_go()
        return pool


def run(
    program: str | bytes,
    stdin: str | bytes = "",
    limits: Limits | None = None,
    isolation: Isolation = "full",
    hash_seed: int | None = None,
) -> Result:
    """Run one program on a pool that this process keeps warm. See `Pool` for the arguments.

    Raises:
        SandboxUnavailable: The requested isolation is not available here.
    """
    return shared_pool(isolation, limits).run(program, stdin, limits, hash_seed)


def _begin_in_forked_process() -> None:
    """Threads that the fork did not copy may hold the locks, and the servers belong to the parent."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_pools):
        pool._begin_in_this_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_forked_process)
