"""What the games share in which players write programs: one sandbox a process, refusals, faults put into programs."""

from __future__ import annotations

import ast
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import llm_gym  # noqa: F401 - registers the ids
from llm_gym.games.code.drawing import broken
from llm_gym.games.code.programs import Judge, shown
from llm_gym.parsing import format_action
from llm_gym.sandbox.pool import shared_pool

IDS = ["llmgym/CodeExecution-v0", "llmgym/PredictionGame-v0", "llmgym/MBPP-v0"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def solved(env: gymnasium.Env, seed: int) -> tuple[float, dict]:
    """The reward and the info that the reference player gets in one episode, as agent in seat 0."""
    _, info = env.reset(seed=seed)
    reply = env.unwrapped.scripted_reply("reference", np.random.default_rng(seed))
    _, reward, over, truncated, info = env.step(reply)
    assert (over, truncated) == (True, False)
    return reward, info


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


# Plays all three games in a process and in a fork of it, then says which servers it has started.
SHARES = """
import os, pathlib, sys
import gymnasium, llm_gym

def play_all():
    envs = [gymnasium.make(id, opponent=lambda *seen: "\\\\boxed{{4}}") for id in {ids!r} for _ in range(3)]
    for number in range(2):
        for env in envs:
            env.reset(seed=number)
            env.step("```python\\nprint(4)\\n```")

def children():
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]

play_all()
first = children()
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    play_all()
    print("fork", *children(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
play_all()
print("same", *children() if children() == first else "others")
"""


@linux
def test_all_environments_of_a_process_share_servers_that_end_with_it():
    done = run_script(SHARES.format(ids=IDS))
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: [int(pid) for pid in line.split()[1:]] for line in done.stdout.splitlines()}
    assert len(lines["same"]) == len(lines["fork"]) == 3  # one server for each of three hash seeds
    assert not set(lines["same"]) & set(lines["fork"])
    deadline = time.monotonic() + 10
    while any(map(_alive, [*lines["same"], *lines["fork"]])) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, [*lines["same"], *lines["fork"]]))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("env_id", IDS)
def test_copies_and_pickles_hold_no_process_and_play_on(env_id):
    env = gymnasium.make(env_id, opponent="reference")
    solved(env, 0)
    env.reset(seed=1)
    reply = env.unwrapped.scripted_reply("reference", np.random.default_rng(0))
    packed = pickle.dumps(env)
    assert len(packed) < 50_000
    want = env.step(reply)
    twins = [pickle.loads(packed)]
    env.reset(seed=1)
    twins.append(copy.deepcopy(env))
    assert [twin.step(reply) for twin in twins] == [want, want]


def in_another_process(packed: bytes, replies: multiprocessing.Queue) -> None:
    replies.put(solved(pickle.loads(packed), 3)[0])


@pytest.mark.parametrize("how", multiprocessing.get_all_start_methods())
def test_a_pickled_environment_plays_in_a_process_started_in_any_way(how):
    env = gymnasium.make(IDS[0])
    assert solved(env, 3)[0] == 1.0  # the sandbox is there before the process is
    context = multiprocessing.get_context(how)
    replies = context.Queue()
    process = context.Process(target=in_another_process, args=(pickle.dumps(env), replies))
    process.start()
    assert replies.get(timeout=60) == 1.0
    process.join(timeout=30)
    assert process.exitcode == 0


def test_making_an_environment_starts_no_process():
    script = "import gymnasium, llm_gym, threading\n" + "".join(f"gymnasium.make({env_id!r})\n" for env_id in IDS)
    script += "from llm_gym.sandbox import pool\nprint(len(pool._shared))"
    assert run_script(script).stdout == "0\n"


# As a container's default profile does, a filter refuses unshare(2) from here on.
WITHOUT_NAMESPACES = """
import errno, platform
import gymnasium, llm_gym
from llm_gym.sandbox.worker import kernel
number = 272 if platform.machine() == "x86_64" else 97
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
refuse, allow = (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)
kernel.prepared_seccomp([(0x20, 0, 0, 0), (0x15, 0, 1, number), refuse, allow])()
for env_id in {ids!r}:
    try:
        gymnasium.make(env_id).reset(seed=0)
    except Exception as error:
        print(type(error).__name__, error)
"""


@linux
def test_isolation_that_cannot_be_had_is_one_clear_line_at_reset():
    done = run_script(WITHOUT_NAMESPACES.format(ids=IDS))
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line in lines:
        assert line.startswith("SandboxUnavailable sandbox layer 'namespaces' is missing here: ")
        assert "isolation='best_effort'" in line


@pytest.mark.parametrize("env_id", IDS)
def test_best_effort_is_passed_on_to_the_sandbox(env_id):
    env = gymnasium.make(env_id, isolation="best_effort", opponent="sampler")
    env.reset(seed=0)
    env.step("```python\nprint(4)\n```")
    assert shared_pool("best_effort")._layers is not None
    assert env.unwrapped.game.judge.isolation == "best_effort"


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"isolation": "none"}, "isolation must be one of full, container, best_effort, not 'none'"),
        ({"timeout_s": 0}, "timeout_s must be a number of seconds above 0, not 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be"),
        ({"timeout_s": True}, "timeout_s must be"),
        ({"timeout_s": "5"}, "timeout_s must be"),
    ],
)
def test_wrong_settings_are_refused_when_it_is_made(env_id, settings, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(env_id, **settings)


def test_a_timeout_is_kept():
    began = time.monotonic()
    assert Judge(0.3, "full").run("while True: pass").status == "timeout"
    assert 0.3 <= time.monotonic() - began < 3


def test_a_programs_environment_and_files_are_not_ours(monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    result = Judge(2.0, "full").run(f"import os\nprint(os.environ, os.path.exists({os.path.abspath(__file__)!r}))")
    assert result.status == "ok"
    assert "secret" not in result.stdout
    assert result.stdout.endswith("False\n")


def test_what_does_not_print_is_shown_as_a_mark_and_the_rest_is_cut():
    assert shown("a\x1b[2J\u202eb\n\tc") == "a\ufffd[2J\ufffdb\n\tc"
    assert shown("x" * 5000) == "x" * 2000 + " ... (5,000 characters in all)"


def test_faults_are_of_all_kinds_and_any_text_can_be_broken():
    rng = np.random.default_rng(0)
    program = "total = 0\nfor n in range(5):\n    total += n\nprint(total)"
    kinds: Counter[str] = Counter()
    for _ in range(300):
        fault = broken(program, rng)
        assert fault != program
        try:
            ast.parse(fault)
        except SyntaxError:
            kinds["does not compile"] += 1
        else:
            kinds["prints nothing" if "print(" not in fault else "compiles"] += 1
    assert min(kinds[kind] for kind in ("does not compile", "prints nothing", "compiles")) > 20
    for text in ("", "x", "\n", "(", "7"):
        for _ in range(20):
            assert isinstance(broken(text, rng), str)


def test_a_scripted_players_reply_is_a_fenced_program():
    env = gymnasium.make(IDS[0])
    env.reset(seed=0)
    reply = env.unwrapped.scripted_reply("reference", np.random.default_rng(0))
    assert reply == format_action(env.unwrapped.game.task.program, "fence")
