"""A run gives the same numbers twice, and when it was killed and resumed in between; one gone wrong stops."""

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

from algos import grpo, ppo, spiral
from algos.run_folder import checkpoints as checkpoint

REPOSITORY = Path(__file__).parents[3]
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
TICTACTOE = {"id": "llmgym/TicTacToe-v0"}
STAGES = [
    {"name": "opened", "envs": [TICTACTOE | {"random_opening": 5}], "threshold": 0.01, "window": 9, "min_episodes": 30},
    {"name": "whole", "envs": [TICTACTOE, TICTACTOE | {"random_opening": 3}]},
]
EVERYTHING = {
    "run.max_steps": 4,
    "run.save_every": 1,
    "run.trackers": "[]",
    "rollout.episodes": 16,
    "rollout.max_new_tokens": 8,
    "curriculum.stages": json.dumps(STAGES),
    "replay.share": 0.5,
    "optim.lr": 1e-3,
    "eval.episodes": 4,
}
"""A run with all that a resumed one has to find again; each algorithm adds its own."""
OWN: dict[str, dict[str, object]] = {
    "grpo": {"grpo.group_size": 2, "grpo.kl_coef": 0.1, "grpo.minibatches": 2, "grpo.dynamic_sampling_rounds": 1},
    "ppo": {
        "ppo.critic": "separate",
        "ppo.kl_coef": 0.1,
        "ppo.kl_target": 0.001,
        "ppo.kl_in": "reward",
        "ppo.scale_rewards": True,
        "ppo.minibatches": 2,
        "optim.name": "muon",
    },
    "spiral": {
        "rollout.episodes": 12,
        "spiral.kl_coef": 0.1,
        "spiral.magnet_every": 2,
        "optim.ema_decay": 0.5,
        "spiral.opponent_pool_share": 0.5,
        "spiral.opponent_pool_every": 1,
        "spiral.opponent_pool_size": 2,
        "spiral.minibatches": 2,
    },
}
MAIN = {"grpo": grpo.main, "ppo": ppo.main, "spiral": spiral.main}
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


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check_same_run(run: Path, other: Path) -> None:
    assert metrics(run) == metrics(other)
    last, other_last = checkpoint.all_of(run)[-1], checkpoint.all_of(other)[-1]
    assert last.name == other_last.name
    weights, others = load_file(last / "model.safetensors"), load_file(other_last / "model.safetensors")
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    states = [checkpoint.load_state(folder) for folder in (last, other_last)]
    for name in ("optimizer", "registered", "best"):
        assert same(states[0][name], states[1][name]), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, other)]
    for summary in summaries:
        assert summary.pop("wall_s") > 0
    assert summaries[0] == summaries[1]


def start(arguments: list[str], algorithm: str = "grpo") -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "algos" / f"{algorithm}.py"), *arguments]
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
    drift = [line["policy/kl_to_reference"] for line in metrics(whole_run) if "policy/kl_to_reference" in line]
    assert drift[-1] > 0.01  # the reference does not follow the policy


def everything(algorithm: str, folder: Path, model: Path, *flags: str, **changed: Any) -> list[str]:
    """The command line of a run with all that a resumed one has to find again."""
    given = EVERYTHING | OWN[algorithm] | {name.replace("__", "."): value for name, value in changed.items()}
    given |= {"run.dir": folder, "model.path": model}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))] + list(flags)


def check_all_was_in_use(run: Path, algorithm: str) -> None:
    """A state that never changed would come back by itself."""
    lines, kept = metrics(run), checkpoint.load_state(checkpoint.all_of(run)[-1])["registered"]
    assert [line["curriculum/stage"] for line in lines[:: len(lines) - 1]] == [0.0, 1.0]
    assert lines[-1]["replay/size"] > 0
    for line in lines:  # what was played again counts too
        episodes = [json.loads(text) for text in (run / f"episodes/step_{line['step']:06d}.jsonl").open()]
        assert line["tokens/sampled"] == sum(len(turn["action_ids"]) for e in episodes for turn in e["turns"])
    if algorithm == "ppo":
        assert len({line["policy/kl_coef"] for line in lines}) == len(lines)
        assert kept["return_scale"]["count"] == 16 * len(lines)
        assert any(name.startswith("backbone.") for name in kept["critic"])
    if algorithm == "spiral":
        assert [version for version, _ in kept["pool"]["players"]] == [len(lines) - 1, len(lines)]
        assert max(line["episode/against_opponent_pool"] for line in lines[1:]) > 0
        assert not same(kept["magnet"], kept["average"])
    if algorithm != "ppo":
        assert any(line.get("policy/kl_to_reference", 0) > 1e-4 for line in lines[1:])


@pytest.mark.parametrize("algorithm", MAIN)
def test_a_killed_run_resumes_to_the_same_numbers(algorithm: str, tiny_folder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    MAIN[algorithm](everything(algorithm, whole, tiny_folder))
    check_all_was_in_use(whole, algorithm)
    process = start(everything(algorithm, killed, tiny_folder), algorithm)
    step, delay = random.randint(1, 3), random.uniform(0.0, 1.0)
    try:
        wait_for(killed / "checkpoints" / f"step_{step:06d}", process)
        time.sleep(delay)
    finally:
        process.kill()
        process.communicate()
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "torn')  # a line that was being written
    MAIN[algorithm](everything(algorithm, killed, tiny_folder, "--resume"))
    check_same_run(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", MAIN)
def test_a_run_killed_at_20_moments_comes_to_the_same_numbers(
    algorithm: str, tiny_folder: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    MAIN[algorithm](everything(algorithm, whole, tiny_folder, run__max_steps=12))
    check_all_was_in_use(whole, algorithm)
    began = time.monotonic()
    first = start(everything(algorithm, killed, tiny_folder, run__max_steps=12), algorithm)
    wait_for(killed / "checkpoints" / "step_000001", first)
    longest = 1.3 * (time.monotonic() - began)
    for _ in range(20):
        first.kill()
        first.communicate()
        first = start(everything(algorithm, killed, tiny_folder, "--resume", run__max_steps=12), algorithm)
        time.sleep(random.uniform(0.0, longest))
    first.kill()
    first.communicate()
    MAIN[algorithm](everything(algorithm, killed, tiny_folder, "--resume", run__max_steps=12))
    check_same_run(whole, killed)


@pytest.mark.parametrize("algorithm", MAIN)
def test_the_policy_that_is_trained_is_the_one_that_sampled(
    algorithm: str, arguments: Arguments, tiny_folder: Path, tmp_path: Path
) -> None:
    """Before its first optimizer step every importance ratio is 1."""
    for context in ("turn", "episode"):
        changed = {"run__max_steps": 1, "eval__episodes": 0, "rollout__context": context}
        changed |= {f"{algorithm}__minibatches": 1, f"{algorithm}__epochs": 1}
        MAIN[algorithm](everything(algorithm, tmp_path, tiny_folder, "--overwrite", **changed))
        (first,) = metrics(tmp_path)
        assert 0 < first["policy/engine_difference"] < 1e-5
        assert first["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
        assert first["losses/clipfrac"] == 0.0
        assert first["episode/turns"] > 1


def test_what_is_not_finite_stops_the_run_and_leaves_the_batch(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        ppo.main(everything("ppo", tmp_path, tiny_folder, optim__lr=1e30, eval__episodes=0))
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    file = tmp_path / "not_finite_step_1_process_0.pt"
    assert "step 1: not finite: " in error
    assert "losses/total" in error
    assert error.endswith(str(file))
    rows = torch.load(file, weights_only=False)
    assert sum(row.action_tokens for row in rows) == metrics(tmp_path)[0]["tokens/sampled"]
    assert checkpoint.all_of(tmp_path) == []


def test_a_policy_that_its_last_update_broke_is_not_saved(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figure of that update shows it: they were taken before its optimizer step."""
    real = grpo.update

    def breaks(config: Any, rows: Any, trainer: Any, step: int) -> dict[str, float]:
        figures = real(config, rows, trainer, step)
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(float("nan"))
        return figures

    monkeypatch.setattr(grpo, "update", breaks)
    with pytest.raises(SystemExit):
        grpo.main(arguments(tmp_path, eval__episodes=0, eval__every=1, run__save_every=1))
    assert "step 1: not finite: the policy; the rows" in capsys.readouterr().err
    assert checkpoint.all_of(tmp_path) == []


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
    assert error.splitlines()[-1] == f"stopped by SIGINT after step {stopped}; continue with --resume"
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
    grpo.main(arguments(tmp_path, eval__every=1, run__keep=1))
    evaluated = metrics(tmp_path)
    assert all("eval/win_rate" in line for line in evaluated)
    plain = [{name: value for name, value in line.items() if not name.startswith("eval/")} for line in evaluated]
    assert plain == metrics(whole_run)
    after = json.loads((whole_run / "summary.json").read_text())["after"]
    assert evaluated[-1]["eval/mean_return"] == after["mean_return"]
    best = max(evaluated, key=lambda line: line["eval/mean_return"])  # of equals the first
    kept = sorted({f"step_{int(best['step']):06d}", "step_000004"})
    assert [folder.name for folder in checkpoint.all_of(tmp_path)] == kept


def test_another_evaluation_alone_does_not_make_a_best_checkpoint(arguments: Arguments, tmp_path: Path) -> None:
    """Its step has no mean return of the main evaluation; taken for 0 it would be the best of a run that loses."""
    also = json.dumps([{"name": "opened", "episodes": 2, "random_opening": 3, "every": 1}])
    grpo.main(arguments(tmp_path, eval__extra=also, run__max_steps=1))
    assert "opened/win_rate" in metrics(tmp_path)[0]
    assert checkpoint.load_state(checkpoint.all_of(tmp_path)[-1])["best"] is None


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
