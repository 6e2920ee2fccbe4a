"""The pool's side of a warm server: starts it, sends it one program at a time, notices its death."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from llm_gym.sandbox.results import Ending, Isolation, Limits, Result, SandboxUnavailable
from llm_gym.sandbox.worker import wire
from llm_gym.sandbox.worker.isolate import ACCOUNT, LANDLOCK, NAMESPACES, SECCOMP

LAYERS: dict[Isolation, tuple[str, ...]] = {
    "full": (NAMESPACES, LANDLOCK, SECCOMP),
    "container": (LANDLOCK, SECCOMP),
    "best_effort": (NAMESPACES, LANDLOCK, SECCOMP),
}
# Seconds beyond a program's own limit after which its server counts as dead.
_PATIENCE_S = 20.0
_START_S = 60.0
_SANDBOX = Path(__file__).resolve().parent
# Loads the server's modules without running the packages' own __init__, so that an interpreter without any
# dependency will do.
_BOOT = (
    "import importlib, sys, types\n"
    "for name, path in (('llm_gym', sys.argv[1] + '/..'), ('llm_gym.sandbox', sys.argv[1])):\n"
    "    module = sys.modules[name] = types.ModuleType(name)\n"
    "    module.__path__ = [path]\n"
    "sys.path[:] = [entry for entry in sys.path if entry]\n"
    "importlib.import_module('llm_gym.sandbox.worker.' + sys.argv[2]).main(sys.argv[3])\n"
)


def worker_command(module: str, settings: str) -> list[str]:
    """An interpreter's arguments to run a module of `llm_gym.sandbox.worker`, without site-packages or bytecode."""
    return ["-S", "-s", "-B", "-X", "utf8", "-c", _BOOT, str(_SANDBOX), module, settings]


class ServerDied(Exception):
    """The server went away while it ran a program."""


@dataclass(frozen=True)
class ServerSettings:
    """What makes two warm servers interchangeable.

    Args:
        isolation: See `Pool`.
        interpreter: The Python that runs programs.
        preload: Modules it imports before the first program.
        hash_seed: Its PYTHONHASHSEED, which is fixed when it starts.
        temporary_bytes: Size of a program's /tmp.
        most: What no program may exceed; only `Limits.sizes` of it.
    """

    isolation: Isolation
    interpreter: str
    preload: tuple[str, ...]
    hash_seed: int
    temporary_bytes: int
    most: Limits


class WarmServer:
    """One running server. Not thread-safe: one program at a time.

    Raises:
        SandboxUnavailable: A layer that was asked for is missing here, or the interpreter does not start.
    """

    def __init__(self, settings: ServerSettings) -> None:
        layers = list(LAYERS[settings.isolation]) if sys.platform == "linux" else []
        if sys.platform != "linux" and settings.isolation != "best_effort":
            raise SandboxUnavailable(
                f"{sys.platform} has no namespaces, Landlock or seccomp; isolation='best_effort' limits resources only"
            )
        while True:
            answer = self._start(settings, layers)
            missing = answer.get("missing")
            if missing is None or missing not in layers or settings.isolation != "best_effort":
                break
            layers.remove(missing)
        if missing is not None:
            raise SandboxUnavailable(
                f"sandbox layer {missing!r} is missing here: {answer['detail']}{_advice(settings.isolation, missing)}"
            )
        if "ready" not in answer:
            raise SandboxUnavailable(
                f"the sandbox's interpreter {settings.interpreter} did not start: {answer.get('failed', 'no answer')}"
            )
        self.layers = tuple(layers)

    def _start(self, settings: ServerSettings, layers: list[str]) -> dict[str, str]:
        """Start the process with these layers; on anything but "ready" it is gone again."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._answered = select.poll()
        self._answered.register(self._control, select.POLLIN)
        configuration = {
            "control": theirs.fileno(),
            "parent": os.getpid(),
            "layers": layers,
            "preload": settings.preload,
            "search": [str(Path(entry).resolve()) for entry in sys.path if entry.endswith("-packages")],
            "temporary_bytes": settings.temporary_bytes,
            "limits": settings.most.sizes,
        }
        # Arenas and BLAS threads reserve address space by the gigabyte, which the memory limit would count.
        environment = {
            "PYTHONHASHSEED": str(settings.hash_seed),
            "MALLOC_ARENA_MAX": "1",
            # Else every fork looks up its functions anew.
            "LD_BIND_NOW": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [settings.interpreter, *worker_command("server", json.dumps(configuration))]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the arguments are all our own
                command,
                env=environment,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            return {"failed": str(error)}
        finally:
            theirs.close()
        self._end = weakref.finalize(self, _end, os.getpid(), self._process, self._control)
        answer = self._first_line()
        if "ready" not in answer:
            self.close()
        return answer

    def _first_line(self) -> dict[str, str]:
        line = b""
        deadline = time.monotonic() + _START_S
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            block = self._control.recv(4096) if self._answered.poll(left * 1000) else b""
            if not block:
                return {}
            line += block
        answer: dict[str, str] = json.loads(line)
        return answer

    def execute(self, program: bytes, stdin: bytes, limits: Limits, mode: int = wire.RUN) -> tuple[Result, bytes]:
        """Run one program; returns its result and, for `wire.TESTS`, what it answered.

        Raises:
            ServerDied: The server is gone. The program may have run, but without effect outside the sandbox.
        """
        files = [_file_of(program), _file_of(stdin), *(_file_of(b"") for _ in range(2 if mode == wire.RUN else 3))]
        try:
            packed_files = struct.pack(f"{len(files)}i", *files)
            self._control.sendmsg(
                [limits.packed(mode, len(program))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed_files)]
            )
            reply = self._receive(limits.wall_s + _PATIENCE_S)
            for file in files[:2]:
                os.close(file)
            del files[:2]
            stdout, stderr, *answers = (_content_of(file, limits.output_bytes + 1) for file in files)
        except OSError as error:
            raise ServerDied(str(error)) from error
        finally:
            for file in files:
                os.close(file)
        ending = Ending(*wire.REPLY.unpack(reply))
        if ending.failed_before_program:
            raise ServerDied("a fork of it could not be isolated")
        return ending.result(stdout, stderr, limits.output_bytes), b"".join(answers)

    def _receive(self, seconds: float) -> bytes:
        reply = b""
        while len(reply) < wire.REPLY.size:
            # Not the socket's own timeout, which costs two system calls more.
            if not self._answered.poll(seconds * 1000):
                raise ServerDied("it does not answer")
            block = self._control.recv(wire.REPLY.size - len(reply))
            if not block:
                raise ServerDied("it hung up")
            reply += block
        return reply

    def close(self) -> None:
        """End the server and everything in it."""
        self._end()


def _end(owner: int, process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    if os.getpid() == owner:
        process.kill()
        process.wait()
    else:
        # A process forked from the owner can neither wait for the server nor may it end it.
        process.returncode = 0


def _file_of(content: bytes) -> int:
    """The descriptor of an unnamed file in memory, at its start."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("llm_gym")
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    written = 0
    while written < len(content):
        written += os.pwrite(file, content[written:] if written else content, written)
    return file


def _content_of(file: int, at_most: int) -> bytes:
    return os.pread(file, min(os.fstat(file).st_size, at_most), 0)


def _advice(isolation: Isolation, missing: str) -> str:
    if missing == ACCOUNT:
        return " (run as an ordinary user, or name an interpreter that everyone may read)"
    if isolation == "full" and missing == NAMESPACES:
        return " (isolation='container' does without namespaces, isolation='best_effort' with whatever there is)"
    return " (isolation='best_effort' does with whatever there is)" if isolation != "best_effort" else ""
