"""Every file in configs/ loads and validates; with the tiny model put in, those of the trainers run two steps."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from algos.config import profiles
from algos.config.load import load

CONFIGS = Path(__file__).parents[3] / "configs"
TRAINERS = sorted(CONFIGS.glob("*.yaml"))
MODELS = {"Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B"}


def trainer(file: Path) -> tuple[Any, Any]:
    """The module and the schema that a file's name says it is for."""
    name = file.stem.partition("_")[0]
    module = importlib.import_module(f"algos.{name}")
    return module, getattr(module, f"{name.capitalize()}Config")


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MBPP_DATASET_PATH", raising=False)


@pytest.mark.parametrize("file", TRAINERS, ids=lambda file: file.stem)
def test_it_loads_and_is_possible_on_every_profile(file: Path) -> None:
    module, schema = trainer(file)
    for profile in profiles.NAMES:
        config, sources, _ = load(schema, ["--config", str(file), "--profile", profile])
        assert config.run.dir == Path("runs") / config.run.name == Path("runs") / file.stem
        assert {source for source in sources.values() if not source.startswith("profile")} == {str(file)}
    if hasattr(module, "check") and (not config.model.quantize or importlib.util.find_spec("bitsandbytes")):
        module.check(config)


def test_the_missions_models_and_games_are_covered() -> None:
    found = [yaml.safe_load(file.read_text()) for file in TRAINERS]
    models = {data["model"]["path"] for data in found if "model" in data}
    assert models == {*MODELS, "tiny"}
    games = {data["env"]["id"].split("/")[1] for data in found}
    wanted = {"CodeExecution-v0", "PredictionGame-v0", "TicTacToe-v0", "KuhnPoker-v0", "PasswordGame-v0", "MBPP-v0"}
    assert games >= wanted
    of_qwen3 = [data for data in found if "Qwen3" in data.get("model", {}).get("path", "")]
    assert {data["rollout"]["thinking"] for data in of_qwen3} == {True, False}
    large = [data["model"] for data in of_qwen3 if data["model"]["path"].endswith("4B")]
    assert all(model["lora_rank"] and model["quantize"] == "nf4" for model in large)
    assert any(len(data.get("curriculum", {}).get("stages", [])) == 3 for data in found)


@pytest.mark.parametrize("file", TRAINERS, ids=lambda file: file.stem)
def test_it_runs_two_steps_with_the_tiny_model(file: Path, tiny_folder: Path, tmp_path: Path) -> None:
    module, schema = trainer(file)
    config, _, _ = load(schema, ["--config", str(file), "--profile", "cpu"])
    small: dict[str, Any] = {
        "run.dir": tmp_path / "run",
        "run.max_steps": 2,
        "run.trackers": [],
        "model.path": str(tiny_folder),
        "rollout.episodes": 8,
        "rollout.max_new_tokens": 6,
        "rollout.max_turns": 2,
        "rollout.max_prompt_tokens": 2000,
        "eval.episodes": 2,
        "eval.every": 2,
        "eval.exact": False,
    }
    if config.model.quantize and importlib.util.find_spec("bitsandbytes") is None:
        small["model.quantize"] = None
    if config.eval.extra:
        small["eval.extra"] = [further.model_dump() | {"episodes": 2} for further in config.eval.extra]
    for section, changes in {
        "grpo": {"group_size": 4, "minibatches": 1},
        "ppo": {"minibatches": 2},
        "spiral": {"minibatches": 2},
        "sft": {"episodes": 20, "steps": 2, "batch": 16},
    }.items():
        if hasattr(config, section):
            small |= {f"{section}.{name}": value for name, value in changes.items()}
    path = tmp_path / "small.yaml"
    sections: dict[str, dict[str, Any]] = {}
    for key, value in small.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = str(value) if isinstance(value, Path) else value
    path.write_text(yaml.safe_dump(sections))
    module.main(["--config", str(file), "--config", str(path), "--profile", "cpu"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("accelerate/*.yaml")), ids=lambda file: file.stem)
def test_accelerate_knows_every_setting(file: Path) -> None:
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    if config.deepspeed_config:
        settings = json.loads((CONFIGS.parent / config.deepspeed_config["deepspeed_config_file"]).read_text())
        assert settings["zero_optimization"]["stage"] in (1, 2, 3)
        assert settings["train_micro_batch_size_per_gpu"] == settings["gradient_accumulation_steps"] == 1


def test_there_is_a_file_for_every_profile() -> None:
    assert {file.stem for file in CONFIGS.glob("profiles/*.yaml")} == {*profiles.NAMES} - {"auto"}
