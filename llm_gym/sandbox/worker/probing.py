"""Tries each layer in its own process, and prints the outcomes as one line of JSON."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from collections.abc import Callable

from llm_gym.sandbox.worker import isolate, kernel


def _require(held: bool, complaint: str) -> None:
    if not held:
        raise OSError(complaint)


def _user_namespace() -> str:
    if isolate.may_become_nobody():
        isolate.become_nobody()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    isolate.enter_namespaces(0)
    return f"programs run as uid {os.getuid()} in a namespace of their own"


def _mount_namespace() -> str:
    isolate.enter_namespaces(kernel.NEWNS)
    kernel.mount(None, "/", kernel.MS_REC | kernel.MS_PRIVATE)
    here = os.path.dirname(os.path.abspath(__file__))
    os.close(kernel.detached_copy(here))
    kernel.mount("tmpfs", here, kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k")
    _require(not os.listdir(here), "a new mount does not show")
    kernel.pivot_to(here)
    _require(not os.listdir("/"), "the old root still shows")
    return "the root folder can be replaced"


def _pid_namespace() -> str:
    isolate.enter_namespaces(kernel.NEWPID)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    _require(os.waitpid(pid, 0)[1] == 0, "the first process in it is not pid 1")
    return "no process outside can be named"


def _net_namespace() -> str:
    isolate.enter_namespaces(kernel.NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 9))
        except OSError:
            return "not even loopback is reachable"
    raise OSError("loopback is reachable")


def _ipc_namespace() -> str:
    before = os.readlink("/proc/self/ns/ipc")
    isolate.enter_namespaces(kernel.NEWIPC)
    _require(os.readlink("/proc/self/ns/ipc") != before, "it is the old one")
    return "no shared memory or queue outside can be named"


def _uts_namespace() -> str:
    isolate.enter_namespaces(kernel.NEWUTS)
    socket.sethostname("sandbox")
    return "the host's name is hidden"


def _landlock() -> str:
    if isolate.may_become_nobody():
        isolate.become_nobody()
    abi = kernel.landlock([], [])
    try:
        os.listdir("/")
    except PermissionError:
        return f"version {abi}: files are out of reach"
    raise OSError("files can still be read")


def _seccomp() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prepared_seccomp(kernel.allow_list())()
    try:
        socket.socket().close()
    except PermissionError:
        return "system calls are refused that are not on the list"
    raise OSError("a refused call went through")


def _process_limit() -> str:
    _user_namespace()
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        pid = os.fork()
    except BlockingIOError:
        return "exact, counted per sandbox"
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    raise OSError("a process more than allowed was started")


def _memory_limit() -> str:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    try:
        bytearray(1 << 31)
    except MemoryError:
        return "a process gets no more address space than allowed"
    raise OSError("2 GiB were handed out against a limit of 1 GiB")


def _file_size_limit() -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    file = os.memfd_create("probe")
    try:
        os.write(file, bytes(10))
        os.write(file, b"x")
    except OSError:
        return "output stops at its limit"
    raise OSError("a file grew beyond its limit")


def _pidfd() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return "time limits are waited for, not polled"


_PROBES: dict[str, Callable[[], str]] = {
    "user namespace": _user_namespace,
    "mount namespace": _mount_namespace,
    "pid namespace": _pid_namespace,
    "net namespace": _net_namespace,
    "ipc namespace": _ipc_namespace,
    "uts namespace": _uts_namespace,
    "landlock": _landlock,
    "seccomp": _seccomp,
    "process limit": _process_limit,
    "memory limit": _memory_limit,
    "output limit": _file_size_limit,
    "pidfd": _pidfd,
}


def _tried(probe: Callable[[], str]) -> tuple[bool, str]:
    """The probe's outcome, from a process that is thrown away with whatever the probe did to it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outcome = (True, probe())
        except BaseException as error:
            outcome = (False, str(error) or type(error).__name__)
        os.write(write_end, json.dumps(outcome).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as answer:
        text = answer.read()
    status = os.waitpid(pid, 0)[1]
    holds, detail = json.loads(text) if text else (False, f"the probe died with status {status}")
    return holds, detail


def main(_settings: str) -> None:
    """Print every layer's name, whether it holds, and what was seen."""
    print(json.dumps([(name, *_tried(probe)) for name, probe in _PROBES.items()]), flush=True)
    sys.exit(0)
