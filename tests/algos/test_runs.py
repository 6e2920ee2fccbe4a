"""A run gives the same numbers twice, and when it was killed and resumed in between."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from algos import grpo
from algos.run import checkpoint

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "env.seat": "alternate",
    "run.max_steps": 4,
    "run.save_every": 2,
    "run.trackers": "[]",
    "rollout.episodes": 16,
    "rollout.max_new_tokens": 8,
    "grpo.group_size": 4,
    "grpo.kl_coef": 0.1,  # so that the reference must come back too
    "grpo.minibatches": 2,
    "optim.lr": 1e-3,
    "optim.schedule": "linear",
    "optim.warmup_steps": 1,
    "eval.episodes": 10,
}
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def arguments(tiny_folder: Path) -> Arguments:
    def make(folder: Path, *flags: str, **changed: Any) -> list[str]:
        given = {name.replace(".", "__"): value for name, value in SETTINGS.items()} | changed
        given |= {"run__dir": folder, "model__path": tiny_folder}
        words = [word for name, value in given.items() for word in ("--" + name.replace("__", "."), str(value))]
        return [*words, *flags]

    return make


@pytest.fixture(scope="module")
def whole_run(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    grpo.main(arguments(folder))
    return folder


def metrics(run: Path) -> list[dict[str, float]]:
    """What must be equal: all but durations."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def check_same_run(run: Path, other: Path) -> None:
    assert metrics(run) == metrics(other)
    last, other_last = checkpoint.all_of(run)[-1], checkpoint.all_of(other)[-1]
    assert last.name == other_last.name
    weights, others = load_file(last / "model.safetensors"), load_file(other_last / "model.safetensors")
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, other)]
    for summary in summaries:
        assert summary.pop("wall_s") > 0
    assert summaries[0] == summaries[1]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "algos" / "grpo.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


def test_a_run_leaves_what_it_should(whole_run: Path) -> None:
    assert [line["step"] for line in metrics(whole_run)] == [1, 2, 3, 4]
    assert [folder.name for folder in checkpoint.all_of(whole_run)] == ["step_000002", "step_000004"]
    found = {path.name for path in whole_run.iterdir()}
    assert found >= {"config.yaml", "metrics.jsonl", "episodes", "checkpoints", "summary.json", "report.html"}
    summary = json.loads((whole_run / "summary.json").read_text())
    kept = ("algorithm", "env", "steps", "episodes")
    assert [summary[name] for name in kept] == ["grpo", "llmgym/TicTacToe-v0", 4, 64]
    assert summary["before"]["episodes"] == summary["after"]["episodes"] == 10
    for step in range(1, 5):
        episodes = [json.loads(line) for line in (whole_run / f"episodes/step_{step:06d}.jsonl").open()]
        assert len(episodes) == 16
        returns = [episode["return"] for episode in episodes]
        assert sum(returns) / 16 == pytest.approx(metrics(whole_run)[step - 1]["reward/mean"])
        for group in range(4):
            of_group = [episode for episode in episodes if episode["group"] == group]
            assert len({episode["seed"] for episode in of_group}) == 1
            assert sum(episode["advantage"] for episode in of_group) == pytest.approx(0.0, abs=1e-6)
    assert abs(metrics(whole_run)[0]["policy/ratio"] - 1) < 5e-2  # the second minibatch comes after an optimizer step
    assert metrics(whole_run)[-1]["policy/kl_to_reference"] > 0.01  # the reference does not follow the policy


def test_a_killed_run_resumes_to_the_same_numbers(whole_run: Path, arguments: Arguments, tmp_path: Path) -> None:
    process = start(arguments(tmp_path))
    delay = random.uniform(0.0, 1.0)
    try:
        wait_for(tmp_path / "checkpoints" / "step_000002", process)
        time.sleep(delay)
    finally:
        process.kill()
        process.communicate()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "torn')  # a line that was being written
    grpo.main(arguments(tmp_path, "--resume"))
    check_same_run(whole_run, tmp_path)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(arguments: Arguments, tmp_path: Path) -> None:
    endless = {"run__save_every": 10**6, "optim__schedule": "constant"}
    process = start(arguments(tmp_path, run__max_steps=10**6, **endless))
    try:
        wait_for(tmp_path / "episodes" / "step_000001.txt", process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    before = metrics(tmp_path)
    stopped = len(before)
    assert process.returncode == 128 + signal.SIGINT
    assert error.splitlines()[-1] == f"stopped by SIGINT after step {stopped}; go on with --resume"
    assert "Traceback" not in error
    assert [folder.name for folder in checkpoint.all_of(tmp_path)] == [f"step_{stopped:06d}"]
    assert not (tmp_path / "summary.json").exists()
    grpo.main(arguments(tmp_path, "--resume", run__max_steps=stopped + 1, **endless))
    assert metrics(tmp_path)[:stopped] == before
    assert len(metrics(tmp_path)) == stopped + 1
    assert (tmp_path / "summary.json").exists()


def test_evaluating_on_the_way_changes_nothing_and_a_seed_repeats(
    whole_run: Path, arguments: Arguments, tmp_path: Path
) -> None:
    torch.manual_seed(123)  # what the process did before is of no account
    random.seed(123)
    grpo.main(arguments(tmp_path, eval__every=1))
    evaluated = metrics(tmp_path)
    assert all("eval/win_rate" in line for line in evaluated)
    plain = [{name: value for name, value in line.items() if not name.startswith("eval/")} for line in evaluated]
    assert plain == metrics(whole_run)
    after = json.loads((whole_run / "summary.json").read_text())["after"]
    assert evaluated[-1]["eval/mean_return"] == after["mean_return"]


def test_another_seed_is_another_run(whole_run: Path, arguments: Arguments, tmp_path: Path) -> None:
    grpo.main(arguments(tmp_path, run__seed=1, run__max_steps=1))
    assert metrics(tmp_path)[0]["reward/mean"] != metrics(whole_run)[0]["reward/mean"]


def test_resuming_a_finished_run_only_goes_on_where_more_steps_are_asked_for(
    whole_run: Path, arguments: Arguments, tmp_path: Path
) -> None:
    grpo.main(arguments(tmp_path, run__max_steps=2, optim__schedule="constant"))
    first = metrics(tmp_path)
    grpo.main(arguments(tmp_path, "--resume", run__max_steps=2, optim__schedule="constant"))
    assert metrics(tmp_path) == first
    grpo.main(arguments(tmp_path, "--resume", run__max_steps=3, optim__schedule="constant"))
    assert metrics(tmp_path)[:2] == first
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
