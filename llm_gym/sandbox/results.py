"""The limits of a program, and its result."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llm_gym.sandbox.worker import wire

Status = Literal["ok", "syntax_error", "runtime_error", "timeout", "memory", "output_limit", "killed"]
Isolation = Literal["full", "container", "best_effort"]


class SandboxUnavailable(RuntimeError):
    """The requested isolation is not available here. The message names the missing layer."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        wall_s: Seconds by the clock; then the program and all it started is killed. Status `timeout`.
        cpu_s: Seconds of processor time of its first process, all threads together; None: no limit but `wall_s`. Status
            `timeout`.
        memory_bytes: Address space beyond the warm interpreter's, for each process. Status `memory`, if the MemoryError
            is not caught.
        output_bytes: Longest stdout, stderr, and single file. Status `output_limit`.
        processes: How many processes it may be at once. At 1 it cannot fork, so `memory_bytes` bounds all of it.
        threads: How many threads it may start.
    """

    wall_s: float = 5.0
    cpu_s: float | None = None
    memory_bytes: int = 256 << 20
    output_bytes: int = 1 << 20
    processes: int = 1
    threads: int = 32

    def __post_init__(self) -> None:
        for name in ("wall_s", "memory_bytes", "output_bytes", "processes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Limits.{name} must be positive, got {getattr(self, name)!r}")
        if self.threads < 0 or (self.cpu_s is not None and self.cpu_s <= 0):
            raise ValueError(
                f"Limits.threads must not be negative and cpu_s must be positive, got {self.threads!r}, {self.cpu_s!r}"
            )

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The limits that the kernel keeps for a whole server: memory, output, processes, threads."""
        return self.memory_bytes, self.output_bytes, self.processes, self.threads

    def packed(self, mode: int, size: int) -> bytes:
        """A `wire.REQUEST` for a program of `size` bytes under these limits."""
        return wire.REQUEST.pack(self.wall_s, self.cpu_s or 0.0, mode, size, *self.sizes)


@dataclass(frozen=True)
class Result:
    """The result of one program.

    Attributes:
        status: `ok`: it ended with exit status 0. `syntax_error`: the compiler refused it, nothing ran.
            `runtime_error`: it ended with another exit status, an uncaught exception or `sys.exit(1)` alike. `timeout`,
            `memory`, `output_limit`: it reached a limit. `killed`: a signal ended it that was not ours.
        stdout: Its output, as UTF-8 with U+FFFD for invalid bytes; the first `output_bytes`.
        stderr: The same for stderr.
        wall_s: Seconds from the fork to its end.
        cpu_s: Seconds of processor time, its descendants' included that it waited for.
        peak_bytes: Most resident memory of any of its processes, the warm interpreter's share included.
        exit_code: Its exit status; None if a signal ended it or it did not compile.
        signal: The name of the signal that ended it (`SIGSEGV`), if the sandbox did not send it.
        limit: The field of `Limits` that ended it, if one did.
    """

    status: Status
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    peak_bytes: int
    exit_code: int | None = None
    signal: str | None = None
    limit: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the program ran to its end with exit status 0, within its limits."""
        return self.status == "ok"


class Ending(NamedTuple):
    """A `wire.REPLY`: what the server saw of a program, from outside the program's process."""

    started: int
    wait_status: int
    cut: int
    wall_s: float
    cpu_s: float
    peak_bytes: int

    @property
    def failed_before_program(self) -> bool:
        """Whether the process ended before the program started, which is not the program's doing."""
        return (
            not self.started
            and os.WIFEXITED(self.wait_status)
            and os.WEXITSTATUS(self.wait_status) == wire.NOT_EVEN_TRIED
        )

    def result(self, stdout: bytes, stderr: bytes, output_bytes: int) -> Result:
        """The program's result, given what its output files hold."""
        exit_code = os.WEXITSTATUS(self.wait_status) if os.WIFEXITED(self.wait_status) else None
        number = os.WTERMSIG(self.wait_status) if os.WIFSIGNALED(self.wait_status) else None
        overflowed = max(len(stdout), len(stderr)) > output_bytes
        status, limit = self._status(exit_code, number, overflowed)
        return Result(
            status,
            stdout[:output_bytes].decode("utf-8", "replace"),
            stderr[:output_bytes].decode("utf-8", "replace"),
            self.wall_s,
            self.cpu_s,
            self.peak_bytes,
            None if status == "syntax_error" else exit_code,
            _signal_name(number) if status in ("killed", "output_limit") else None,
            limit,
        )

    def _status(self, exit_code: int | None, number: int | None, overflowed: bool) -> tuple[Status, str | None]:
        if self.cut == wire.CUT_BY_WALL:
            return "timeout", "wall_s"
        if self.cut == wire.CUT_BY_CPU:
            return "timeout", "cpu_s"
        if overflowed or number == signal.SIGXFSZ:
            return "output_limit", "output_bytes"
        if not self.started and exit_code == wire.REFUSED_BY_COMPILER:
            return "syntax_error", None
        if self.started and number == wire.MEMORY_SIGNAL:
            return "memory", "memory_bytes"
        if number is not None:
            return "killed", None
        return ("ok", None) if exit_code == 0 and self.started else ("runtime_error", None)


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
