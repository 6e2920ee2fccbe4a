"""Profiles: which one a machine gets, where its settings stand among the others, and how much memory a model takes."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Qwen2Config, Qwen3Config, Qwen3ForCausalLM

from algos.cluster import memory, offline
from algos.cluster.diagnosis import diagnose
from algos.config import profiles
from algos.config.load import dump, load
from algos.config.profiles import Gpu, Machine
from algos.config.schema import ModelSection, OptimSection
from algos.errors import ConfigError
from algos.grpo import GrpoConfig
from algos.sft import SftConfig
from llm_gym import cli

V100 = Gpu("Tesla V100-SXM2-32GB", 31.7, False)
SMALL_V100 = Gpu("Tesla V100-PCIE-16GB", 15.8, False)
A100 = Gpu("NVIDIA A100-SXM4-40GB", 39.4, True)
H100 = Gpu("NVIDIA H100 80GB HBM3", 79.1, True)
H200 = Gpu("NVIDIA H200", 139.7, True)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("LLM_GYM_", "SLURM_", "HF_HUB", "TRANSFORMERS_OFF", "WANDB")) and name != "LLM_GYM_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("gpus", "name"),
    [
        ((), "cpu"),
        ((V100,), "v100"),
        ((A100,) * 8, "a100"),
        ((H100,), "h100"),
        ((H200,), "h200"),
        ((Gpu("NVIDIA GH200 480GB", 94.5, True),), "a100"),
        ((Gpu("NVIDIA B200", 178.0, True),), "h200"),
        ((Gpu("NVIDIA GeForce RTX 4090", 23.6, True),), "a100"),
        ((Gpu("Quadro RTX 8000", 47.5, False),), "v100"),
        ((H100, V100), "v100"),
    ],
)
def test_the_weakest_gpu_chooses_the_profile(gpus: tuple[Gpu, ...], name: str) -> None:
    chosen, reason = profiles.choose(Machine(gpus))
    assert chosen == name
    assert reason


@pytest.mark.parametrize(
    ("name", "gpu", "rows"),
    [("v100", V100, 4), ("v100", SMALL_V100, 2), ("a100", A100, 8), ("h200", H200, 32), ("a100", H100, 16)],
)
def test_micro_batches_are_halved_to_suit_the_memory(name: str, gpu: Gpu, rows: int) -> None:
    found = {key: (value, source) for key, value, source in profiles.settings(name, Machine((gpu,)))}
    value, source = found["optim.micro_batch"]
    written = yaml.safe_load((profiles.FOLDER / f"{name}.yaml").read_text())["optim"]["micro_batch"]
    assert value == rows
    assert ("halved" in source) == (value < written)
    assert "model.attention" not in found or found["model.attention"][0] != "flash_attention_2"  # not installed here


def test_v100_has_no_bf16_and_the_others_have() -> None:
    given = {name: {k: v for k, v, _ in profiles.settings(name, Machine())} for name in profiles.NAMES[1:]}
    dtypes = {name: settings["model.dtype"] for name, settings in given.items()}
    expected = {"cpu": "float32", "v100": "float16", "a100": "bfloat16", "h100": "bfloat16", "h200": "bfloat16"}
    assert dtypes == expected


def test_a_profile_stands_under_yaml_environment_and_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.yaml").write_text("profile: h100\noptim: {micro_batch: 3}\n")
    monkeypatch.setenv("LLM_GYM_RUN__TRACKERS", "[]")
    config, sources, _ = load(GrpoConfig, ["--config", "a.yaml", "--profile", "v100"])
    assert (config.model.dtype, config.optim.micro_batch, config.run.trackers) == ("float16", 3, [])
    assert sources["model.dtype"] == "profile v100"
    assert sources["optim.micro_batch"] == "a.yaml"
    assert sources["run.trackers"] == "environment variable LLM_GYM_RUN__TRACKERS"
    assert "  dtype: float16  # profile v100" in dump(config, sources).splitlines()
    config, sources, _ = load(GrpoConfig, ["--config", "a.yaml", "--model.dtype", "float32"])
    assert (config.model.dtype, sources["model.dtype"]) == ("float32", "command line")
    assert list(load(GrpoConfig, [])[1]) == ["run.trackers"]  # without a profile none is taken
    assert load(SftConfig, ["--profile", "h100"])[0].model.dtype == "bfloat16"  # sft has no section optim
    with pytest.raises(ConfigError, match=r"--profile p100: known are auto, cpu, v100, a100, h100, h200"):
        load(GrpoConfig, ["--profile", "p100"])


def test_offline_is_found_out_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in offline.PROXIES:
        monkeypatch.delenv(name, raising=False)
    header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    (tmp_path / "route").write_text(header + "eth0 000011AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n")
    assert not offline.has_default_route(tmp_path)
    with (tmp_path / "route").open("a") as file:
        file.write("eth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0\n")
    assert offline.has_default_route(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "d-9-1-2.supercloud.mit.edu")
    assert "Supercloud" in str(offline.offline_reason())
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    monkeypatch.setenv("HOME", "/home/gridsan/someone")
    assert "Supercloud" in str(offline.offline_reason())
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("WANDB_MODE", "online")  # what a user set stays
    for name in ("TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert offline.go_offline() == "HF_HUB_OFFLINE is set"
    assert [os.environ.pop(name) for name in ("TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")] == ["1", "1"]
    assert os.environ["WANDB_MODE"] == "online"


def test_a_host_that_does_not_answer_is_not_waited_for() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    assert offline.reachable("127.0.0.1", port)
    listening.close()
    assert not offline.reachable("127.0.0.1", port)


def qwen(name: str) -> Any:
    """The published configurations; parameters as their model cards and checkpoints count them."""
    common = {"vocab_size": 151936, "tie_word_embeddings": True}
    if name == "Qwen2.5-1.5B":
        return Qwen2Config(
            **common, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
            num_key_value_heads=2, architectures=["Qwen2ForCausalLM"],
        )  # fmt: skip
    size = {"Qwen3-0.6B": (1024, 3072, 28, 16), "Qwen3-4B": (2560, 9728, 36, 32)}[name]
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = {"num_key_value_heads": 8, "head_dim": 128, "architectures": ["Qwen3ForCausalLM"]}
    return Qwen3Config(**common, **dict(zip(keys, size, strict=True)), **more)


@pytest.mark.parametrize(
    ("name", "parameters"), [("Qwen2.5-1.5B", 1543714304), ("Qwen3-0.6B", 596049920), ("Qwen3-4B", 4022468096)]
)
def test_parameters_are_counted_without_weights(name: str, parameters: int) -> None:
    assert memory.shape_of(qwen(name), ModelSection()).parameters == parameters


def test_adapters_are_counted_as_peft_makes_them() -> None:
    from peft import LoraConfig, get_peft_model

    config = Qwen3Config(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, architectures=["Qwen3ForCausalLM"],
    )  # fmt: skip
    for targets in ("all-linear", ["q_proj", "v_proj"]):
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets)
        model = get_peft_model(Qwen3ForCausalLM(config), lora)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert memory.shape_of(config, ModelSection(lora_rank=4, lora_targets=targets)).adapters == trained


@pytest.mark.parametrize("checkpointing", [False, True])
def test_kept_activations_are_about_those_that_autograd_keeps(checkpointing: bool) -> None:
    config = Qwen3Config(
        vocab_size=50, hidden_size=64, intermediate_size=192, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, architectures=["Qwen3ForCausalLM"],
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(torch.ones(4, 64, dtype=torch.long), use_cache=False).last_hidden_state
    assert hidden.requires_grad
    shape = memory.shape_of(config, ModelSection())
    layers = 4 * 64 * config.num_hidden_layers
    expected = layers * shape.hidden * 4 if checkpointing else layers * shape.layer_elements * 4
    assert 0.5 < expected / sum(kept.values()) < 2.0


def test_zero_and_adapters_take_less(tmp_path: Path) -> None:
    shape = memory.shape_of(qwen("Qwen3-4B"), ModelSection())
    config = GrpoConfig(model=ModelSection(dtype="bfloat16"))
    optim = OptimSection(micro_batch=4)
    plain = memory.estimate(shape, config, optim)
    assert plain["optimizer"] == 8 * shape.parameters
    for stage, parts in {
        1: ["optimizer"],
        2: ["gradients", "optimizer"],
        3: ["weights", "gradients", "optimizer"],
    }.items():
        one, eight = (memory.estimate(shape, config, optim, processes=n, zero=stage) for n in (1, 8))
        assert [name for name in one if eight[name] == one[name] / 8 and "rollout" not in name] == parts
    lora = ModelSection(dtype="bfloat16", lora_rank=16, quantize="nf4")
    small = memory.estimate(memory.shape_of(qwen("Qwen3-4B"), lora), GrpoConfig(model=lora), optim)
    assert small["weights"] < 0.2 * plain["weights"]
    assert small["optimizer"] < 0.02 * plain["optimizer"]


def test_the_doctor_says_what_was_found_what_follows_and_what_fits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qwen("Qwen3-4B").save_pretrained(tmp_path / "model")
    monkeypatch.setattr(profiles, "detect", lambda: Machine((V100, V100), 16, 120.0, ("SLURM job 7 on 2 node(s)",)))
    cli.main(["doctor", "--model", str(tmp_path / "model")])
    said = capsys.readouterr().out
    for words in (
        "2 x Tesla V100-SXM2-32GB, 32 GiB, no bf16; 16 cores, 120 GiB of memory; SLURM job 7 on 2 node(s)",
        "--profile auto   v100: the GPU is Tesla V100-SXM2-32GB",
        "model.dtype float16  # profile v100 (the GPU is Tesla V100-SXM2-32GB)",
        "on each of 2 process(es), data parallel",
        "4022.5 million parameters",
        "does not fit in 32 GiB",
    ):
        assert words in said
    adapters = ["--model.lora_rank=16", "--model.quantize=nf4", "--rollout.episodes=16"]
    lines = diagnose([f"--model={tmp_path / 'model'}", *adapters], processes=4, zero=2)
    assert "fits in 32 GiB" in lines[-1]
    assert any("on each of 4 process(es), ZeRO-2" in line for line in lines)


@pytest.mark.parametrize("recipe", ["ppo_password_qwen3-0.6b", "spiral_kuhn_tiny", "sft_tictactoe_tiny"])
def test_the_doctor_reads_a_recipe_with_the_settings_of_its_trainer(recipe: str, tmp_path: Path) -> None:
    qwen("Qwen3-0.6B").save_pretrained(tmp_path / "model")
    lines = diagnose([f"--config={recipe}", f"--model={tmp_path / 'model'}"], processes=None, zero=0)
    assert any(line.startswith(f"  {recipe.partition('_')[0]}.") and line.endswith(f"# {recipe}") for line in lines)
    assert any("596.0 million parameters" in line for line in lines)


def test_the_doctor_does_not_wait_for_a_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--model", "Nobody/nothing"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: --model Nobody/nothing: offline (HF_HUB_OFFLINE is set); fill the cache with `llm-gym"
    )
    assert said.count("\n") == 1
