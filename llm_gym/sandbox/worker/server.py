"""The warm server: imports what programs need, isolates itself, then forks one process per program."""

from __future__ import annotations

import _socket
import contextlib
import gc
import json
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from os import WNOHANG, closerange, dup2, fork, read, wait4, waitpid
from select import POLLIN, poll
from time import monotonic
from typing import Any, NoReturn

from llm_gym.sandbox.worker import child, isolate, kernel, relocate, temporary, wire
from llm_gym.sandbox.worker.memory import leave_no_gaps

# How far apart two looks at a program's processor time are, at most, where it has a limit.
_CPU_LOOK_S = 0.05
# Room to report a MemoryError in, on top of the limit that caused it.
_RESERVE = 16 << 20
_CONTROL = 3
pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
_ROOM_FOR_FDS = _socket.CMSG_SPACE(4 * wire.MAX_FDS)
_FDS = {4 * count: struct.Struct(f"{count}i") for count in (4, 5)}
_RSS_UNIT = 1024 if sys.platform == "linux" else 1
# As much as a pipe holds.
_PIPE = 1 << 16

Ended = tuple[int, resource.struct_rusage]


def main(settings_text: str) -> NoReturn:
    """Start up, answer the pool with one line of JSON, and serve until it hangs up.

    Args:
        settings_text: JSON: `control` (descriptor), `parent` (pid), `layers`, `preload`, `search` (folders),
            `temporary_bytes`, `limits` (most that any program may have: memory, output, processes, threads).
    """
    settings = json.loads(settings_text)
    # The lowest number, below those that programs' files get.
    os.dup2(settings["control"], _CONTROL, inheritable=False)
    if settings["control"] != _CONTROL:
        os.close(settings["control"])
    control = _socket.socket(fileno=_CONTROL)
    try:
        _raise_oom_score()
        os.umask(0o022)  # the programs' account must be able to enter the folders of the new root
        if isolate.NAMESPACES in settings["layers"]:
            relocate.leave_tmp(settings, _CONTROL)
        parent = os.pidfd_open(settings["parent"]) if hasattr(os, "pidfd_open") else -1
        if isolate.NAMESPACES in settings["layers"]:
            isolate.leave_namespaces()
            _watch_from_outside(control, parent)
            parent = -1
        server = Server(control, parent, settings)
    except isolate.LayerMissing as missing:
        _say(control, {"missing": missing.layer, "detail": missing.detail})
    except BaseException as error:
        _say(control, {"failed": f"{type(error).__name__}: {error}"})
    else:
        _say(control, {"ready": settings["layers"]})
        server.serve()
    os._exit(1)


def _say(control: _socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _raise_oom_score() -> None:
    """If memory runs out, the kernel should kill a program before it kills the trainer."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        pass


def _watch_from_outside(control: _socket.socket, parent: int) -> None:
    """Fork pid 1 of the new namespace and return in it; this process stays outside, and ends it with the pool."""
    pid = os.fork()
    if pid == 0:
        os.close(parent)
        return
    control.close()
    server = os.pidfd_open(pid)
    watched = poll()
    watched.register(server, POLLIN)
    watched.register(parent, POLLIN)
    watched.poll()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os._exit(0)


class Server:
    """One warm interpreter and the loop that runs programs in forks of it, one at a time."""

    def __init__(self, control: _socket.socket, parent: int, settings: dict[str, Any]) -> None:
        layers = settings["layers"]
        self._control = control
        self._parent = parent
        self._limits = tuple(settings["limits"])
        self._contained = isolate.NAMESPACES in layers
        self._filtered = isolate.SECCOMP in layers
        # A program's process writes a byte into it when it has compiled, and closes its end before the program runs.
        self._started, self._start = os.pipe()
        os.set_blocking(self._started, False)
        self._first_free = 1 + max(_CONTROL, parent, self._started, self._start)
        standard_path = list(sys.path)
        _preload(settings["preload"], settings["search"])
        _fresh_streams()
        # /proc cannot be read later.
        size = os.open("/proc/self/statm", os.O_RDONLY) if os.path.exists("/proc/self/statm") else None
        # This process, and the watcher unless root left it outside the user namespace.
        self._own_processes = 1 if isolate.may_become_nobody() else 2
        isolate.enter_sandbox(layers, settings["temporary_bytes"])
        if self._contained:
            temporary.wipe(isolate.TEMPORARY)
            self._wiped = temporary.traces(isolate.TEMPORARY)
        self._install = {}
        if self._filtered and self._contained:
            self._install = {
                forks: kernel.prepared_seccomp(kernel.program_filter(forks, None)) for forks in (False, True)
            }
        sys.path[:] = standard_path
        sys.argv[:] = [child.FILENAME]
        os.environ.clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == "llm_gym"]:
            del sys.modules[name]
        # Ctrl-C is the pool's business; and pid 1 gets no signal from its programs that it has no handler for.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        main = sys.modules["__main__"].__dict__
        main.clear()
        child.rehearse({"__builtins__": sys.modules["builtins"]})
        main.update({"__name__": "__main__", "__doc__": None, "__builtins__": sys.modules["builtins"]})
        gc.collect()
        gc.freeze()
        leave_no_gaps()
        self._baseline = int(os.read(size, 100).split()[0]) * resource.getpagesize() if size is not None else 0
        os.closerange(self._first_free, isolate.MOST_FILES)
        self._limit(*self._limits)

    def _limit(self, memory: int, output: int, processes: int, threads: int) -> None:
        """Resource limits of this process and those it forks; programs may tighten them."""
        try:
            resource.setrlimit(resource.RLIMIT_AS, (self._baseline + memory, self._baseline + memory + _RESERVE))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise
        # One byte more than the limit, so that a program can write exactly up to the limit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (output + 1, output + 1))
        if self._contained:
            # Exact only in a user namespace of one's own.
            count = self._own_processes + processes + threads
            resource.setrlimit(resource.RLIMIT_NPROC, (count, count))

    def serve(self) -> None:
        """Run programs until the pool closes its end."""
        control, request, reply = self._control, wire.REQUEST, wire.REPLY
        ended = poll()
        if self._parent >= 0:
            ended.register(self._parent, POLLIN)
            ended.register(control, POLLIN)
        while True:
            # A process forked from the pool's may hold the other end open; the pool's own process is asked too.
            if self._parent >= 0 and any(fd == self._parent for fd, _ in ended.poll()):
                return
            message, ancillary, _, _ = control.recvmsg(request.size, _ROOM_FOR_FDS)
            if len(message) < request.size:
                return
            packed = ancillary[0][2]
            fds = _FDS[len(packed)].unpack(packed)
            control.send(reply.pack(*self._run(request.unpack(message), fds)))

    def _run(self, request: tuple[Any, ...], fds: tuple[int, ...]) -> tuple[Any, ...]:
        wall_limit, cpu_limit, mode, size, *limits = request
        dup2(fds[1], 0)
        dup2(fds[2], 1)
        dup2(fds[3], 2)
        tighten = self._tightener(tuple(limits))
        began = monotonic()
        pid = fork()
        if pid == 0:
            child.run_program(mode, fds, size, self._start, tighten)
        cut, gone = _wait(pid, began, wall_limit, cpu_limit)
        wall = monotonic() - began
        status, usage = self._end(pid, cut, gone)
        try:
            started = bool(read(self._started, _PIPE))
        except BlockingIOError:
            started = False
        closerange(self._first_free, isolate.MOST_FILES)
        if self._contained and temporary.traces(isolate.TEMPORARY) != self._wiped:
            temporary.wipe(isolate.TEMPORARY)
        return started, status, cut, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _RSS_UNIT

    def _tightener(self, limits: tuple[int, ...]) -> Callable[[], None]:
        """How a program's process restricts itself before the program runs."""
        refuse = self._install.get(limits[2] > 1, self._refuse_by_pid)
        if limits == self._limits:
            return refuse

        def tighten() -> None:
            self._limit(*limits)
            refuse()

        return tighten

    def _refuse_by_pid(self) -> None:
        if self._filtered:
            # No namespace ends with the server here, so each program has to.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.prepared_seccomp(kernel.program_filter(False, os.getpid()))()
        else:
            os.setsid()

    def _end(self, pid: int, cut: int, gone: Ended | None) -> Ended:
        """Kill what is left of the program, its descendants included, and wait until all of it is gone."""
        if cut:
            os.kill(pid, signal.SIGKILL)
        if not self._contained and not self._filtered:
            # The best there is without namespaces or a filter that forbids forking: a program can leave its session.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        status, usage = gone or wait4(pid, 0)[1:]
        if self._contained:
            # Whatever it left behind is a child of this process by now; most programs leave nothing.
            try:
                waitpid(-1, WNOHANG)
                self._sweep()
            except ChildProcessError:
                pass
        return status, usage

    def _sweep(self) -> NoReturn:
        """Kill and reap everything in this pid namespace; ChildProcessError when nothing is left."""
        # All but pid 1, which is this process: in no other place may this line run.
        assert os.getpid() == 1
        while True:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            waitpid(-1, 0)


def _register_nothing(**hooks: Callable[[], None]) -> None:
    """`child` does what `random` wants done, where it is needed; other hooks mind locks, which no thread here holds."""


def _preload(modules: list[str], search: list[str]) -> None:
    sys.path += search
    register = os.register_at_fork
    os.register_at_fork = _register_nothing  # type: ignore[assignment]
    try:
        for name in modules:
            __import__(name)
    finally:
        os.register_at_fork = register


def _fresh_streams() -> None:
    """Standard streams over files, as every program's are, made once here so that no fork has to."""
    for number in range(3):
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("stream")
            os.dup2(file, number)
            os.close(file)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
    errors = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = errors  # type: ignore[misc]


def _wait(pid: int, began: float, wall_limit: float, cpu_limit: float) -> tuple[int, Ended | None]:
    """Wait for the process to end or to reach a limit; says which, and how it ended where the kernel has said so."""
    if pidfd_open is None:
        return _wait_by_looking(pid, began + wall_limit)
    # Closed with all other descriptors of the program.
    ended = poll()
    ended.register(pidfd_open(pid), POLLIN)
    clock = (~pid << 3) | 2  # clock_getcpuclockid(3): the processor time of all threads of `pid`
    deadline = began + wall_limit
    while True:
        left = deadline - monotonic()
        if left <= 0:
            return wire.CUT_BY_WALL, None
        if cpu_limit:
            cpu_left = cpu_limit - time.clock_gettime(clock)
            if cpu_left <= 0:
                return wire.CUT_BY_CPU, None
            left = min(left, max(cpu_left, 0.001), _CPU_LOOK_S)
        if ended.poll(left * 1000):
            return wire.FINISHED, None


def _wait_by_looking(pid: int, deadline: float) -> tuple[int, Ended | None]:
    while (left := deadline - monotonic()) > 0:
        time.sleep(min(left, 0.001))
        ended, status, usage = wait4(pid, WNOHANG)
        if ended:
            return wire.FINISHED, (status, usage)
    return wire.CUT_BY_WALL, None
