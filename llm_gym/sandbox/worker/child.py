"""What one program's own process does, from the fork to its exit. Everything here can be broken by the program; nothing
relies on it.

Each page of memory that it touches is a fault and a copy in every program, some 3 us a page. So whatever can be is made
before the fork, and what only a failing program needs waits until it fails.
"""

from __future__ import annotations

import atexit
import json
import linecache
import os
import resource
import signal
import sys
import traceback
import types
from collections.abc import Callable
from os import _exit, close, closerange, dup2, read, write
from typing import Any, NoReturn

from llm_gym.sandbox.worker import plain, wire
from llm_gym.sandbox.worker.isolate import MOST_FILES

FILENAME = "<program>"
# Descriptors of the process while it gets ready.
STARTED, ANSWERS = 3, 4
_HERE = __file__
# After eight calls CPython makes its own copy of a function's instructions, and again eight later fits them.
_REHEARSALS = 16
_RAISE = compile("raise", "", "exec").co_code[-2]


def run_program(mode: int, fds: tuple[int, ...], size: int, started: int, tighten: Callable[[], None]) -> NoReturn:
    """Run the program and leave. Called in the freshly forked process, whose standard streams are in place.

    Args:
        mode: `wire.RUN` or `wire.TESTS`.
        fds: The first is the descriptor of the program's text, of `size` bytes; the fifth, for `wire.TESTS`, gets the
            answers, to be graded.
        size: See there.
        started: Gets one byte after the program compiled and before it runs, and is then closed: nothing later can
            change it.
        tighten: Restricts this process further than the server is.
    """
    status = wire.NOT_EVEN_TRIED
    try:
        text = read(fds[0], size)
        # Of the server's descriptors only these two stay, and the first only until the program runs.
        dup2(started, STARTED)
        if mode == wire.TESTS:
            dup2(fds[4], ANSWERS)
            closerange(ANSWERS + 1, MOST_FILES)
        else:
            closerange(ANSWERS, MOST_FILES)
        tighten()
        if b"random" in text or b"statistics" in text or b"import_" in text:
            _reseed()
        status = 1
        status = _run(text) if mode == wire.RUN else _answer(text)
    finally:
        _exit(status)


def _reseed() -> None:
    """Give this fork random numbers of its own.

    `random` would do so in every fork, which costs a tenth of a program, so the server keeps it from that.
    """
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()


def _compile(source: bytes, filename: str) -> types.CodeType | None:
    try:
        code: types.CodeType = compile(source, filename, "exec", dont_inherit=True)
    except BaseException as error:
        traceback.print_exception(type(error), error, None)
        _flush()
        return None
    return code


def _run(source: bytes) -> int:
    code = _compile(source, FILENAME)
    if code is None:
        return wire.REFUSED_BY_COMPILER
    namespace = sys.modules["__main__"].__dict__
    write(STARTED, b"r")
    close(STARTED)
    status = _execute(code, namespace, source)
    return _finish(namespace, status)


def _execute(code: types.CodeType, namespace: dict[str, Any], source: bytes) -> int:
    try:
        exec(code, namespace)  # noqa: S102 - this is the program, in its own process
    except SystemExit as stop:
        return _exit_status(stop)
    except BaseException as error:
        _report(error, source)
        return 1
    return 0


def _exit_status(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _report(error: BaseException, source: bytes) -> None:
    """Print the traceback as Python would; where memory ran out, end by the signal that says so."""
    if isinstance(error, MemoryError):
        # The hard limit leaves room to report in.
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == _HERE:
        trace = trace.tb_next
    try:
        lines = source.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[FILENAME] = (len(source), None, lines, FILENAME)
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(type(error), error, trace)
        else:
            sys.excepthook(type(error), error, trace)
    except BaseException:  # noqa: S110 - the program broke its own printing
        pass
    if isinstance(error, MemoryError) and not _raised_by_hand(trace):
        _flush()
        signal.signal(wire.MEMORY_SIGNAL, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [wire.MEMORY_SIGNAL])
        os.kill(os.getpid(), wire.MEMORY_SIGNAL)


def _raised_by_hand(trace: types.TracebackType | None) -> bool:
    """Whether a `raise` statement, not an allocation that failed, is where the traceback ends."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE


def _finish(namespace: dict[str, Any], status: int) -> int:
    """What the interpreter does on its way out: join threads, run atexit functions, drop the module's names, flush."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
        namespace.clear()
    except BaseException:  # noqa: S110 - its last words failed: it ends all the same
        pass
    return status if _flush() or status else 120


def _flush() -> bool:
    flushed = _flush_one(sys.stdout)
    if sys.__stdout__ is not sys.stdout:
        flushed &= _flush_one(sys.__stdout__)
    return _flush_one(sys.stderr) and flushed


def _flush_one(stream: Any) -> bool:
    try:
        stream.flush()
    except BaseException:
        try:
            return stream is None or bool(stream.closed)
        except BaseException:
            return False
    return True


def rehearse(namespace: dict[str, Any]) -> None:
    """Go through what all programs go through: what the interpreter learns from it, it learns before the fork."""
    for _ in range(_REHEARSALS):
        code = _compile(b"total = 0\nfor i in range(3):\n    total += i\nprint(total)\n", FILENAME)
        assert code is not None
        _execute(code, dict(namespace), b"")
        _value_of((lambda: [(1, 0.5), "x"],), plain.encode)
        _flush()
    sys.stdout.seek(0)


def _answer(job: bytes) -> int:
    """Define the solution, then write down each operand's value, one line a test, before the next test begins."""
    encode, answer = plain.encode, write
    parts, begin = [], wire.JOB.size
    for length in wire.JOB.unpack_from(job):
        parts.append(job[begin : begin + length])
        begin += length
    source = parts[1]
    code = _compile(source, FILENAME)
    if code is None:
        return wire.REFUSED_BY_COMPILER
    module = sys.modules["solution"] = types.ModuleType("solution")
    namespace = module.__dict__
    imports = compile(parts[0], "<imports>", "exec") if parts[0] else None
    setup = compile(parts[2], "<setup>", "exec") if parts[2] else None
    # One compilation for all: each costs more than most operands do.
    operands = compile(parts[3], "<tests>", "eval")
    write(STARTED, b"r")
    close(STARTED)
    for part in (imports, code, setup):
        status = _execute(part, namespace, source) if part else 0
        if status:
            _flush()
            return status
    for test in eval(operands, namespace):  # noqa: S307 - its own process
        answer(ANSWERS, f"[{', '.join([_value_of(forms, encode) for forms in test])}]\n".encode())
    _flush()
    return 0


def _value_of(forms: tuple[Callable[[], Any], ...], encode: Callable[[Any], str]) -> str:
    """JSON: ["value", which, value] of the first form whose value is plain data, or ["error"/"opaque", which, why]."""
    why = ""
    for which, form in enumerate(forms):
        try:
            value = form()
        except BaseException as error:
            text = "".join(traceback.format_exception_only(type(error), error)).strip()
            return json.dumps(["error", which, text[:500]])
        try:
            return f'["value", {which}, {encode(value)}]'
        except BaseException as error:
            why = why or str(error)[:200]
    return json.dumps(["opaque", 0, why])
