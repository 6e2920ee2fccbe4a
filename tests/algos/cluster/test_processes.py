"""One process or two, plain or sharded: the same training from the same episodes; checkpoints that fit all."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharded_optimizer
import torch
from accelerate import Accelerator
from micro import micro_model, some_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from algos import grpo
from algos.cluster import processes
from algos.config.load import load
from algos.config.schema import ModelSection, OptimSection, PolicyUpdateSection
from algos.errors import ConfigError
from algos.model.forward import Policy
from algos.rollout.single_agent import EpisodeRunner
from algos.run_folder import checkpoints as checkpoint
from algos.training.run import Run
from algos.training.trainer import Trainer
from algos.training.update import update

HERE = Path(__file__).parents[1]
REPOSITORY = HERE.parents[1]
SETTINGS = {
    "rollout.episodes": 16,
    "rollout.max_new_tokens": 8,
    "rollout.max_turns": 5,
    "grpo.group_size": 4,
    "grpo.kl_coef": 0.1,
    "optim.lr": 1e-5,
    "optim.micro_batch": 6,
    "eval.episodes": 0,
    "run.trackers": "[]",
    "run.max_steps": 3,
    "run.save_every": 2,
}
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
WAYS = ["cpu_2", *(pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3"))]


@pytest.fixture(scope="module")
def arguments(tiny_folder: Path) -> list[str]:
    given = {**SETTINGS, "model.path": tiny_folder}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def episodes(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps' groups with rewards that differ, but for a group that tells nothing."""
    folder = tmp_path_factory.mktemp("episodes")
    config, sources, _ = load(grpo.GrpoConfig, [*arguments, "--run.dir", str(folder)])
    trainer = Trainer.start(config, resume=False)
    run = Run("grpo", config, sources, trainer)
    trainer.sync(0)
    games = EpisodeRunner(config.rollout)
    steps = [grpo.collect(config, run, games, step) for step in range(3)]
    rng = random.Random(0)
    for step in steps:
        for group in step:
            for episode in group:
                for turn in episode.turns:
                    turn.reward = 0.0 if group is steps[0][0] else rng.gauss(0.0, 1.0)
    torch.save(steps, folder / "episodes.pt")
    return folder / "episodes.pt"


def launch(name: str, *words: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two processes under one of the repository's Accelerate configurations."""
    script = Path(sys.executable).parent  # ninja is beside the interpreter
    env = {**os.environ, **environment, "PATH": f"{script}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    env.pop("ACCELERATE_USE_CPU", None)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--num_processes", "2"]
    command = [*launcher, "--config_file", f"configs/accelerate/{name}.yaml", *map(str, words)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, error = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its processes, which may be waiting for one another for ever
            out, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


Train = Callable[..., tuple[list[float], dict[str, torch.Tensor], str]]


@pytest.fixture(scope="module")
def train(episodes: Path, arguments: list[str]) -> Train:
    """Trains in a folder on the given episodes: gradient norms, weights, and what was printed."""

    def run(name: str, folder: Path, *flags: str) -> tuple[list[float], dict[str, torch.Tensor], str]:
        words = [HERE / "several_processes.py", folder, episodes, *arguments, *flags]
        if name == "one":
            command = [sys.executable, *map(str, words)]
            env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            ended = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=600)
        else:
            ended = launch(name, *words)
        assert ended.returncode == 0, ended.stderr[-3000:]
        norms, weights, _ = torch.load(folder / "after_0.pt", weights_only=False)
        return norms, weights, ended.stdout

    return run


@pytest.fixture(scope="module")
def alone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(train: Train, alone_folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    norms, weights, _ = train("one", alone_folder)
    assert min(norms) > 0.01
    return norms, weights


def check_same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tolerance: float) -> None:
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=tolerance, msg=name)


def check_same_updates(
    weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> None:
    """What was added to each tensor is the same, but for the few entries whose gradient is rounding noise."""
    for name, value in weights.items():
        update = others[name] - start[name.removeprefix("model.")]
        assert float((value - others[name]).norm()) <= 1e-2 * float(update.norm()), name


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_two_processes_train_as_one_and_resume_exactly_or_on_another_number(
    name: str,
    alone: tuple[list[float], dict[str, torch.Tensor]],
    alone_folder: Path,
    train: Train,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    norms, weights, said = train(name, tmp_path / "two")
    kind = {"cpu_2": "DistributedDataParallel", "zero2": "DeepSpeed ZeRO-2", "zero3": "DeepSpeed ZeRO-3"}[name]
    assert f"2 process(es), {kind}, gloo, cpu" in said
    assert norms == pytest.approx(alone[0], rel=1e-5)
    check_same(weights, alone[1], 1e-5)
    check_same_updates(weights, alone[1], AutoModelForCausalLM.from_pretrained(tiny_folder).state_dict())
    two = [torch.load(tmp_path / f"two/after_{rank}.pt", weights_only=False) for rank in range(2)]
    check_same(two[1][1], weights, 0.0)
    baselines, credits, whitened = torch.load(alone_folder / "after_0.pt", weights_only=False)[2]
    assert [over_all[0] for *_, over_all in two] == [baselines, baselines]
    for which, expected in ((1, credits), (2, whitened)):
        torch.testing.assert_close(torch.cat([over_all[which] for *_, over_all in two]), expected, rtol=1e-9, atol=1e-9)

    *_, second, last = checkpoint.all_of(tmp_path / "two" / "run")
    saved = AutoModelForCausalLM.from_pretrained(last).state_dict()
    AutoTokenizer.from_pretrained(last)
    check_same({key.removeprefix("model."): value for key, value in weights.items()}, saved, 0.0)

    for folder in ("again", "fewer"):  # as if killed after the second step
        shutil.copytree(second, tmp_path / folder / "run" / "checkpoints" / second.name)
    norms_again, again, said = train(name, tmp_path / "again", "--resume")
    assert norms_again == norms[2:]
    check_same(again, weights, 0.0)
    assert "saved by" not in said
    norms_fewer, fewer, said = train("one", tmp_path / "fewer", "--resume")
    assert norms_fewer == pytest.approx(norms[2:], rel=1e-5)
    check_same(fewer, weights, 1e-5)
    assert f"saved by 2 process(es), {kind}" in said


@needs_deepspeed
@pytest.mark.slow
def test_a_run_of_one_process_resumes_under_zero_3(alone: Any, train: Train, tmp_path: Path) -> None:
    norms, weights, _ = train("one", tmp_path / "one")
    second = checkpoint.all_of(tmp_path / "one" / "run")[0]
    shutil.copytree(second, tmp_path / "more" / "run" / "checkpoints" / second.name)
    norms_more, more, said = train("zero3", tmp_path / "more", "--resume")
    assert norms_more == pytest.approx(norms[2:], rel=1e-5)
    check_same(more, weights, 1e-5)
    assert "saved by 1 process(es), alone" in said


def test_a_process_that_dies_ends_all_with_its_own_error(episodes: Path, arguments: list[str], tmp_path: Path) -> None:
    ended = launch("cpu_2", HERE / "several_processes.py", tmp_path, episodes, *arguments, DIE_AT="1")
    assert ended.returncode not in (0, None)
    assert "RuntimeError: this process dies of its own error" in ended.stderr
    assert not list(tmp_path.glob("after_*"))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "settings", "words"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "1"}, {}, "started one.*--multi_gpu"),
        ({"ACCELERATE_USE_FSDP": "true", "LOCAL_RANK": "0"}, {}, "FSDP needs GPUs"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "need a launcher"),
        ({}, {"dtype": "float16"}, "float16 needs a GPU"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "LOCAL_RANK": "0"},
            {"quantize": "nf4", "lora_rank": 8},
            "4-bit weights are not sharded",
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without GPUs")
def test_what_a_launcher_would_give_without_a_word_is_refused_with_one(
    variables: dict[str, str], settings: dict[str, Any], words: str, launched: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        launched.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        processes.check_launch(ModelSection(**settings), OptimSection())


def test_muon_is_refused_where_matrices_are_sharded(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    launched.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="muon needs matrices whole"):
        processes.check_launch(ModelSection(), OptimSection(name="muon"))


def test_accelerates_number_of_processes_without_multi_gpu_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from algos.cluster import processes\nfrom algos.config.schema import ModelSection, OptimSection\n"
        "from algos.errors import ConfigError, die\n"
        "try:\n    processes.check_launch(ModelSection(), OptimSection())\n"
        "except ConfigError as error:\n    die(error)\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", str(script)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert "started one" in ended.stderr


def test_fsdps_optimizer_states_are_those_of_whole_weights(tmp_path: Path) -> None:
    script, file = HERE / "sharded_optimizer.py", tmp_path / "state.pt"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run([*torchrun, script, file], env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-3000:]
    state, weights, after, exact = torch.load(file, weights_only=False)
    assert all(exact)  # resumed on the same number of processes
    plain = sharded_optimizer.model()
    for parameter, value in zip(plain.parameters(), weights, strict=True):
        parameter.data.copy_(value)
    optimizer = sharded_optimizer.adamw(plain)
    optimizer.load_state_dict(state)
    assert [group["scale"] for group in optimizer.param_groups] == [1.0, 2.0]
    sharded_optimizer.step(plain, optimizer, 2)
    for value, parameter in zip(after, plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-5, atol=1e-6)


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_counted() -> None:
    accelerator = Accelerator()
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # Accelerate makes one on GPUs only
    model = micro_model(dtype=torch.float32)
    policy = Policy(model, 1.0)
    optimizer = accelerator.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=1.0))
    before = [parameter.clone() for parameter in model.parameters()]
    given = (some_rows(7), lambda batch: (-1e6 * policy(batch)[0], {}), policy, optimizer, accelerator)
    optim, rng = OptimSection(max_grad_norm=1e9), np.random.default_rng(0)
    metrics = update(*given, optim, PolicyUpdateSection(epochs=2), rng)
    assert metrics["optim/grad_norm"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert accelerator.scaler.get_scale() == 2.0**118
    accelerator.scaler.update(1.0)
    metrics = update(*given, optim, PolicyUpdateSection(), rng)
    assert 0.0 < metrics["optim/grad_norm"] < math.inf
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("kept", [True, False])
def test_memory_that_tensors_free_is_used_again(kept: bool) -> None:
    """Pages that 20 tensors of 40 MB, one after the other, have from the kernel: those of a few of them, or of 20."""
    call = "from algos.cluster.processes import keep_freed_memory; keep_freed_memory()" if kept else ""
    script = f"""
import resource, torch
{call}
torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000)
pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
print(pages / 40e6)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert float(run.stdout) < 10 if kept else float(run.stdout) >= 19
