"""The warm server: imports what programs need, closes the sandbox behind itself, then forks one process a program."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from llm_gym.sandbox.inside import child, isolate, kernel, wire

# How far apart two looks at a program's processor time are, at most, where it has a limit.
_CPU_LOOK_S = 0.05
# Room to report a MemoryError in, on top of the limit that caused it.
_RESERVE = 16 << 20

Ended = tuple[int, resource.struct_rusage]


def main(settings_text: str) -> NoReturn:
    """Start up, answer the pool with one line of JSON, and serve until it hangs up.

    Args:
        settings_text: JSON: `control` (descriptor), `parent` (pid), `layers`, `preload`, `search` (folders),
            `temporary_bytes`, `limits` (most that any program may have: memory, output, processes, threads).
    """
    settings = json.loads(settings_text)
    control = socket.socket(fileno=settings["control"])
    try:
        _raise_oom_score()
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


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _raise_oom_score() -> None:
    """Where memory runs out, the kernel shall take a program before the trainer."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        pass


def _watch_from_outside(control: socket.socket, parent: int) -> None:
    """Fork pid 1 of the new namespace and return in it; this process stays outside, and ends it with the pool."""
    pid = os.fork()
    if pid == 0:
        os.close(parent)
        return
    control.close()
    server = os.pidfd_open(pid)
    watched = select.poll()
    watched.register(server, select.POLLIN)
    watched.register(parent, select.POLLIN)
    watched.poll()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os._exit(0)


class Server:
    """One warm interpreter and the loop that runs programs in forks of it, one at a time."""

    def __init__(self, control: socket.socket, parent: int, settings: dict[str, Any]) -> None:
        layers = settings["layers"]
        self._control = control
        self._parent = parent
        self._limits = tuple(settings["limits"])
        self._contained = isolate.NAMESPACES in layers
        self._filtered = isolate.SECCOMP in layers
        standard_path = list(sys.path)
        _preload(settings["preload"], settings["search"])
        _fresh_streams()
        self._baseline = _address_space()
        # This process, and the watcher unless root left it outside the user namespace.
        self._own_processes = 1 if isolate.may_become_nobody() else 2
        isolate.close_in(layers, settings["temporary_bytes"])
        if self._contained:
            _wipe(isolate.TEMPORARY)
        self._limit(*self._limits)
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
        main = sys.modules["__main__"].__dict__
        main.clear()
        main.update({"__name__": "__main__", "__doc__": None, "__builtins__": sys.modules["builtins"]})
        # Ctrl-C is the pool's business; and pid 1 gets no signal from its programs that it has no handler for.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        gc.collect()
        gc.freeze()

    def _limit(self, memory: int, output: int, processes: int, threads: int) -> None:
        """Resource limits of this process and those it forks; programs may tighten them."""
        try:
            resource.setrlimit(resource.RLIMIT_AS, (self._baseline + memory, self._baseline + memory + _RESERVE))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise
        # One byte more than is allowed, so that writing just what is allowed is no crime.
        resource.setrlimit(resource.RLIMIT_FSIZE, (output + 1, output + 1))
        if self._contained:
            # Exact only in a user namespace of one's own.
            count = self._own_processes + processes + threads
            resource.setrlimit(resource.RLIMIT_NPROC, (count, count))

    def serve(self) -> None:
        """Run programs until the pool closes its end."""
        ended = select.poll()
        if self._parent >= 0:
            ended.register(self._parent, select.POLLIN)
            ended.register(self._control, select.POLLIN)
        while True:
            # A process forked from the pool's may hold the other end open; the pool's own process is asked too.
            if self._parent >= 0 and any(fd == self._parent for fd, _ in ended.poll()):
                return
            message, fds, _, _ = socket.recv_fds(self._control, wire.REQUEST.size, wire.MAX_FDS)
            if len(message) < wire.REQUEST.size:
                return
            reply = self._run(wire.REQUEST.unpack(message), fds)
            self._control.sendall(wire.REPLY.pack(*reply))

    def _run(self, request: tuple[Any, ...], fds: list[int]) -> tuple[Any, ...]:
        wall_limit, cpu_limit, mode, size, *limits = request
        program, *streams = fds
        for number, fd in enumerate(streams[:3]):
            os.dup2(fd, number)
            os.close(fd)
        answers = streams[3] if len(streams) > 3 else -1
        started_read, started_write = os.pipe()
        control = self._control.fileno()
        close_in = self._closing_in(tuple(limits))
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(control)
            os.close(started_read)
            if self._parent >= 0:
                os.close(self._parent)
            child.live(mode, program, size, started_write, answers, close_in)
        os.close(started_write)
        os.close(program)
        if answers >= 0:
            os.close(answers)
        cut, gone = _wait(pid, began, wall_limit, cpu_limit)
        wall = time.monotonic() - began
        status, usage = self._end(pid, gone)
        started = len(os.read(started_read, 1))
        os.close(started_read)
        if self._contained:
            _wipe(isolate.TEMPORARY)
        peak = usage.ru_maxrss * (1024 if sys.platform == "linux" else 1)
        return started, status, cut, wall, usage.ru_utime + usage.ru_stime, peak

    def _closing_in(self, limits: tuple[int, ...]) -> Callable[[], None]:
        """What a program's process does to itself before the program runs."""
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

    def _end(self, pid: int, gone: Ended | None) -> Ended:
        """Kill what is left of the program, its descendants included, and wait until all of it is gone."""
        if self._contained:
            # Everything in this pid namespace but its pid 1, which is this process: in no other place
            # may this line run.
            assert os.getpid() == 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        elif gone is None:
            os.kill(pid, signal.SIGKILL)
        if not self._contained and not self._filtered:
            # The best there is without namespaces or a filter that forbids forking: a program can leave its session.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        status, usage = gone or os.wait4(pid, 0)[1:]
        while self._contained:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        return status, usage


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


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _wait(pid: int, began: float, wall_limit: float, cpu_limit: float) -> tuple[int, Ended | None]:
    """Wait for the process to end or to reach a limit; says which, and how it ended where the kernel has said so."""
    clock = (~pid << 3) | 2  # clock_getcpuclockid(3): the processor time of all threads of `pid`
    deadline = began + wall_limit
    poll = None
    if hasattr(os, "pidfd_open"):
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return wire.CUT_BY_WALL, None
            if cpu_limit and poll:
                cpu_left = cpu_limit - time.clock_gettime(clock)
                if cpu_left <= 0:
                    return wire.CUT_BY_CPU, None
                left = min(left, max(cpu_left, 0.001), _CPU_LOOK_S)
            if poll:
                if poll.poll(left * 1000):
                    return wire.FINISHED, None
                continue
            time.sleep(min(left, 0.001))
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                return wire.FINISHED, (status, usage)
    finally:
        if poll:
            os.close(pidfd)


def _wipe(folder: str) -> None:
    """Empty the folder and set it right, however deep, wide, odd or locked what a program left in it is.

    It steps down and up one folder at a time: no path is built that could be too long, no descriptor held a level.
    """
    os.chmod(folder, 0o700)
    os.chdir(folder)
    names: list[bytes] = []
    while True:
        below = _remove_files_here()
        if below is not None:
            os.chmod(below, 0o700)
            os.chdir(below)
            names.append(below)
        elif names:
            os.chdir(b"..")
            os.rmdir(names.pop())
        else:
            break
    os.utime(folder, (0, 0))


def _remove_files_here() -> bytes | None:
    """Remove what is no folder from the working directory; returns the name of a folder in it, if there is one."""
    below = None
    for name in os.listdir(b"."):
        if stat.S_ISDIR(os.lstat(name).st_mode):
            below = name
        else:
            os.unlink(name)
    return below
