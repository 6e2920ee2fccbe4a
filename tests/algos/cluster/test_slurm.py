"""The SLURM scripts, with a stand-in for SLURM's commands and the real trainer."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from algos.run_folder import checkpoints as checkpoint

REPOSITORY = Path(__file__).parents[3]
SCRIPTS = REPOSITORY / "examples" / "slurm"
SRUN = '''
"""Runs a command once a task, as srun does: signals go on to all, the highest exit status comes back."""
import os, signal, subprocess, sys
words = sys.argv[1:]
options = dict(word.lstrip("-").split("=", 1) for word in words[: [w.startswith("--") for w in words].index(False)])
command = words[len(options):]
tasks = int(options["ntasks"])
env = lambda i: {**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "SLURM_NTASKS": str(tasks)}
running = [subprocess.Popen(command, env=env(i)) for i in range(tasks)]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in running])
sys.exit(max(task.wait() % 256 for task in running))
'''
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then tr ',' '\\n' <<< "$3"; else echo "$@" >> {log}; fi
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts srun and scontrol on PATH; returns the file that notes what scontrol was asked to do."""
    log = tmp_path / "scontrol.log"
    log.touch()
    # Started by bash: a shebang cannot hold the path of an interpreter that has a blank in it.
    srun = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -c {shlex.quote(SRUN)} "$@"\n'
    for name, text in (("srun", srun), ("scontrol", SCONTROL.format(log=shlex.quote(str(log))))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "localhost", "SLURM_SUBMIT_DIR": str(REPOSITORY)}
    for name, value in {**job, "PYTHON": sys.executable, "PATH": f"{tmp_path}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    return log


def arguments(folder: Path, model: Path, steps: int) -> list[str]:
    settings = {
        "run.dir": folder,
        "model.path": model,
        "run.max_steps": steps,
        "run.save_every": 10**6,
        "run.trackers": "[]",
        "rollout.episodes": 8,
        "rollout.max_new_tokens": 8,
        "grpo.group_size": 4,
        "eval.episodes": 0,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def start(script: str, *words: str) -> subprocess.Popen[str]:
    command = ["bash", str(SCRIPTS / script), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_warning_saves_and_requeues_and_the_next_start_resumes(
    slurm: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    run = tmp_path / "run"
    job = start("one_node.sh", "grpo", *arguments(run, tiny_folder, 10**6))
    try:
        until = time.monotonic() + 300
        while not (run / "episodes" / "step_000001.txt").exists():
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B:USR1 does
        out, error = job.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 128 + signal.SIGUSR1, error
    assert slurm.read_text() == "requeue 4711\n"
    assert "stopped by SIGUSR1" in error
    saved = checkpoint.all_of(run)
    assert len(saved) == 1

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    steps = int(saved[0].name.removeprefix("step_")) + 1
    job = start("one_node.sh", "grpo", *arguments(run, tiny_folder, steps))
    out, error = job.communicate(timeout=300)
    assert job.returncode == 0, error
    assert f"resuming {run} after step {steps - 1}" in out
    assert slurm.read_text() == "requeue 4711\n"
    assert (run / "summary.json").exists()


def test_the_exit_status_of_a_failure_is_kept_and_nothing_is_requeued(slurm: Path, tmp_path: Path) -> None:
    job = start("one_gpu.sh", "grpo", "--run.dir", str(tmp_path / "run"), "--run.max_stepz", "3")
    _, error = job.communicate(timeout=300)
    assert job.returncode == 2
    assert "run.max_stepz" in error
    assert slurm.read_text() == ""


def test_several_nodes_end_with_the_servers_status_where_it_does_not_start(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node0")
    job = start("several_nodes.sh", "grpo")
    assert (job.wait(timeout=60), "--nodes=2 or more" in str(job.stderr and job.stderr.read())) == (2, True)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "127.0.0.1,node1")
    monkeypatch.setenv("MODEL", "/nowhere")
    monkeypatch.setenv("LENGTH", "64")
    monkeypatch.setenv("VLLM_PORT", "9")
    monkeypatch.setenv("PYTHON", "false")  # whatever the server is asked, it ends with status 1
    job = start("several_nodes.sh", "grpo")
    job.communicate(timeout=120)
    assert job.returncode == 1


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", "-x", str(script)], cwd=REPOSITORY, capture_output=True, text=True)
        assert checked.stdout == ""
