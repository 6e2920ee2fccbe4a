"""Pools for these tests, and a look from outside at what a pool's programs leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import llm_gym.sandbox
from llm_gym.sandbox import Limits, Pool, SandboxUnavailable
from llm_gym.sandbox.results import Isolation

# Makes `llm_gym.sandbox` importable from the folder in argv[1] by an interpreter that has none of the dependencies.
BOOT = """
import sys, types
module = sys.modules["llm_gym"] = types.ModuleType("llm_gym")
module.__path__ = [sys.argv[1]]
"""
MOST = Limits(wall_s=5.0, memory_bytes=256 << 20, output_bytes=1 << 20, processes=16, threads=64)


def package() -> str:
    """The folder of `llm_gym`."""
    return str(Path(llm_gym.sandbox.__file__).parent.parent)


def interpreter_for_everyone() -> str | None:
    """A Python 3.10 or later that an account without rights can start, which root's own often is not."""
    for candidate in (
        sys.executable,
        os.path.realpath(sys.executable),
        shutil.which("python3", path="/usr/bin:/usr/local/bin"),
    ):
        if candidate is None:
            continue
        check = (
            "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
            "os.listdir(os.path.dirname(os.__file__)); assert sys.version_info >= (3, 10)"
        )
        if os.geteuid() != 0 or subprocess.run([candidate, "-S", "-c", check], capture_output=True).returncode == 0:
            return candidate
    return None


def pool_or_skip(isolation: Isolation, limits: Limits, workers: int = 1) -> Pool:
    """A pool whose first server runs, or a skipped test that says which layer this machine lacks."""
    interpreter = interpreter_for_everyone() if isolation == "container" else None
    pool = Pool(workers=workers, limits=limits, isolation=isolation, interpreter=interpreter)
    try:
        assert pool.layers
    except SandboxUnavailable as missing:
        pytest.skip(str(missing))
    return pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """All layers."""
    with pool_or_skip("full", MOST) as opened:
        yield opened


@pytest.fixture(scope="session", params=["full", "container"])
def each_pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """All layers, then those that are left in a container without namespaces."""
    with pool_or_skip(request.param, MOST) as opened:
        yield opened


def processes_of(pool: Pool) -> list[list[int]]:
    """For each idle server of the pool: the process the pool started and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    families = []
    for server in [server for idle in pool._idle.values() for server in idle]:
        family = [server._process.pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        families.append(family)
    return families


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session", autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Pools that these tests close take their threads with them."""
    before = threading.active_count()
    yield
    assert threading.active_count() <= before
