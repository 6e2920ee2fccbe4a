"""Every attack of the table, under all layers and under those of a container; after each one the world is looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_gym.sandbox import Pool
from tests.sandbox import attack_page
from tests.sandbox.attacks import ATTACKS, FORKING, Attack
from tests.sandbox.conftest import processes_of

SECRET = "nobody may read this"
# What every program must find, whatever ran before it.
AFTERWARDS = """
import builtins, os, signal, sys, time
open_files = []
for fd in range(64):
    try:
        os.fstat(fd)
        open_files.append(fd)
    except OSError:
        pass
try:
    left = os.listdir("/tmp"), oct(os.stat("/tmp").st_mode & 0o777), os.stat("/tmp").st_mtime
except OSError:
    left = "unreadable"
try:
    seen = os.kill(-1, 0)
except OSError:
    seen = None
print(6 * 7, open_files, left, dict(os.environ), sorted(vars(builtins)) == sorted(dir(builtins)), len(dir(builtins)),
sys.stdin.read())
print(os.times()[2:4], signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, os.sched_getaffinity(0),
sorted(vars(sys.modules["__main__"]))[:4])
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a secret, both open to everyone on this machine."""
    folder = tmp_path_factory.mktemp("outside")
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o005)
    folder.chmod(0o777)
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    yield folder
    assert [path.name for path in folder.iterdir()] == ["secret"]


def state_of(outside: Path) -> object:
    places = [Path("/var/tmp"), Path("/dev/shm"), Path("/"), Path(os.__file__)]
    marks = [(place, (place / "llm_gym_escape").exists()) for place in places]
    library = os.stat(os.__file__)
    folder = os.stat(outside)
    return (
        marks,
        library.st_mtime_ns,
        library.st_mode,
        folder.st_mode,
        folder.st_mtime_ns,
        (outside / "secret").read_text(),
        os.getpriority(os.PRIO_PROCESS, 0),
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack_is_held_and_leaves_no_trace(
    each_pool: Pool, attack: Attack, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attack.limits is FORKING and "namespaces" not in each_pool.layers:
        pytest.skip("without a pid namespace no program may fork")
    monkeypatch.setenv("SECRET_API_KEY", "SECRET")
    before = state_of(outside)
    expected_afterwards = each_pool.run(AFTERWARDS, stdin="given")
    servers = processes_of(each_pool)

    program = attack.program.replace("@OUTSIDE@", str(outside)).replace("@HOME@", os.path.expanduser("~"))
    result = each_pool.run(program, limits=attack.limits)

    assert result.status in attack.status.split(), result
    assert "ESCAPED" not in result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr
    if attack.prints is not None:
        assert result.stdout == attack.prints, result
    if attack.exit_code is not None:
        assert result.exit_code == attack.exit_code
    if attack.signal is not None:
        assert result.signal == attack.signal
    assert (result.limit is not None) == (result.status in ("timeout", "memory", "output_limit"))
    assert result.wall_s < attack.limits.wall_s + 0.5
    assert len(result.stdout.encode()) <= 3 * attack.limits.output_bytes

    assert processes_of(each_pool) == servers, "a process was left, or the server had to be restarted"
    assert all(len(family) == (2 if "namespaces" in each_pool.layers else 1) for family in servers)
    afterwards = each_pool.run(AFTERWARDS, stdin="given")
    assert afterwards.status == "ok", afterwards
    assert afterwards.stdout == expected_afterwards.stdout
    assert state_of(outside) == before


def test_page_shows_this_table() -> None:
    assert attack_page.PAGE.read_text(encoding="utf-8") == attack_page.rewritten(), attack_page.COMMAND


def test_table_is_long_enough_and_names_each_attack_once() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


def test_what_the_next_program_finds_is_what_the_first_one_found(pool: Pool) -> None:
    found = pool.run(AFTERWARDS, stdin="given")
    assert found.stdout.startswith("42 [0, 1, 2] ([], '0o700', 0.0) {} True"), found
    assert found.stdout.split("\n")[0].endswith("given")
