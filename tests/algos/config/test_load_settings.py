"""Settings: the later source wins, and what is wrong is one line and exit status 2 before any model loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from algos import grpo, ppo, spiral
from algos.config.load import REFUSED, RENAMED, dump, load
from algos.errors import ConfigError
from algos.grpo import GrpoConfig

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("LLM_GYM_") and "__" in name:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("settings.yaml").write_text(text)
    return "settings.yaml"


def test_yaml_then_environment_then_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("run: {seed: 1, max_steps: 1, name: file}\noptim: {lr: 0.1}\nenv: {opponent: first}")
    monkeypatch.setenv("LLM_GYM_RUN__SEED", "2")
    monkeypatch.setenv("LLM_GYM_RUN__MAX_STEPS", "2")
    config, sources, _ = load(GrpoConfig, ["--run.max_steps", "3", "--config", file, "--env.seat=random"])
    assert (config.run.name, config.run.seed, config.run.max_steps) == ("file", 2, 3)
    assert config.env.settings == {"opponent": "first", "seat": "random"}
    assert sources == {
        "run.name": "settings.yaml",
        "run.seed": "environment variable LLM_GYM_RUN__SEED",
        "run.max_steps": "command line",
        "optim.lr": "settings.yaml",
        "env.opponent": "settings.yaml",
        "env.seat": "command line",
    }


def test_of_two_files_the_later_wins() -> None:
    Path("a.yaml").write_text("run: {seed: 1, name: a}")
    Path("b.yaml").write_text("run: {seed: 2}")
    config, sources, _ = load(GrpoConfig, ["--config", "a.yaml", "--config=b.yaml"])
    assert (config.run.seed, config.run.name) == (2, "a")
    assert (sources["run.seed"], sources["run.name"]) == ("b.yaml", "a.yaml")


def test_a_dump_names_every_source_and_loads_again_to_the_same_settings() -> None:
    file = write(
        "env: {opponent: mcts(simulations=10), seat: 1, show_legal: true}\nrun: {trackers: [], dir: 'a b: #c'}"
    )
    given = ["--optim.lr", "3e-7", "--run.name", 'it\'s: a "name" # here', "--model", "Qwen/Qwen3-0.6B"]
    config, sources, _ = load(GrpoConfig, ["--config", file, *given])
    text = dump(config, sources)
    assert load(GrpoConfig, ["--config", write(text)])[0] == config
    lines = text.splitlines()
    assert "  lr: 3.0e-07  # command line" in lines
    assert "  seat: 1  # settings.yaml" in lines
    assert "  group_size: 8  # default" in lines
    settings = sum(len(section) for section in yaml.safe_load(text).values())
    assert sum("  # " in line for line in lines if line.startswith("  ")) == settings


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "0.000001", "+1e-06"])
def test_numbers_are_numbers_however_they_are_written(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_GYM_OPTIM__FINAL_LR", text)
    config, _, _ = load(GrpoConfig, ["--config", write(f"optim: {{lr: {text}}}"), "--grpo.kl_coef", text])
    assert (config.optim.lr, config.optim.final_lr, config.grpo.kl_coef) == (1e-6, 1e-6, 1e-6)


@pytest.mark.parametrize("spelled", ["None", "null", "~", ""])
def test_none_is_none_however_yaml_spells_it(spelled: str) -> None:
    config, _, _ = load(GrpoConfig, ["--config", write(f"env: {{render_mode: {spelled}}}")])
    assert config.env.settings == {"render_mode": None}


@pytest.mark.parametrize("name", ["007", "2026_11", "1e5", "yes", "a: b", "x # y", "[1", "@home", "null"])
def test_a_name_is_taken_as_it_is_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_GYM_RUN__DIR", name)
    config, _, _ = load(GrpoConfig, ["--run.name", name])
    assert (config.run.name, config.run.dir) == (name, Path(name))


def test_flags_take_no_value_and_model_is_short_for_its_path() -> None:
    config, _, flags = load(GrpoConfig, ["--resume", "--model", "./folder", "--overwrite"])
    assert (config.model.path, flags) == ("./folder", {"resume": True, "overwrite": True})


SCHEMAS = {"ppo": ppo.PpoConfig, "spiral": spiral.SpiralConfig}
WAYS = ["YAML", "variable", "command line"]


def refusal(key: str, way: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said where ``key`` is set, even to its default, in one of three ways."""
    section, _, name = key.partition(".")
    argv: list[str] = []
    if way == "YAML":
        argv = ["--config", write(f"{section}: {{{name}: 0}}")]
    elif way == "variable":
        monkeypatch.setenv(f"LLM_GYM_{section}__{name}".upper(), "0")
    else:
        argv = [f"--{key}", "0"]
    with pytest.raises(ConfigError) as refused:
        load(SCHEMAS.get(section, GrpoConfig), argv)
    source = {"YAML": "settings.yaml", "variable": f"environment variable LLM_GYM_{section}__{name}".upper()}
    assert str(refused.value).upper().startswith(source.get(way, way).upper() + ": ")
    return str(refused.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", RENAMED)
def test_a_setting_under_its_earlier_name_is_told_the_current_one(
    key: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(key, way, monkeypatch).endswith(f": {key!r} is called {RENAMED[key]} now")
    section, _, name = RENAMED[key].partition(" ")[0].partition(".")
    part = SCHEMAS.get(section, GrpoConfig).model_fields[section].annotation
    assert name in part.model_fields  # the name that is told exists
    assert key.partition(".")[2] not in part.model_fields


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_with_one_legal_value_is_refused_with_the_reason(
    key: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(key, way, monkeypatch).endswith(f": {key} cannot be set: {REFUSED[key]}")


def test_a_recipe_is_found_by_its_name_wherever_one_works() -> None:
    config, sources, _ = load(GrpoConfig, ["--config", "grpo_tictactoe_tiny", "--run.seed", "3"])
    assert (config.run.name, sources["run.name"]) == ("grpo_tictactoe_tiny", "grpo_tictactoe_tiny")
    Path("grpo_tictactoe_tiny").write_text("run: {name: mine}")  # a file of that name is meant before the recipe
    assert load(GrpoConfig, ["--config", "grpo_tictactoe_tiny"])[0].run.name == "mine"


WRONG = {
    "unknown setting": (["--run.max_stepz", "3"], ["command line", "run.max_stepz", "did you mean run.max_steps"]),
    "unknown section": (["--runn.seed", "3"], ["runn", "did you mean run"]),
    "no section": (["--seed", "3"], ["seed"]),
    "unknown setting in YAML": (["--config", "bad.yaml"], ["bad.yaml", "grpo.groupsize", "grpo.group_size"]),
    "YAML that is none": (["--config", "torn.yaml"], ["torn.yaml"]),
    "YAML that is a list": (["--config", "list.yaml"], ["list.yaml", "list"]),
    "no such file": (["--config", "missing.yaml"], ["missing.yaml", "no such file"]),
    "no such recipe": (["--config", "grpo_tictactoe"], ["grpo_tictactoe", "did you mean grpo_tictactoe_tiny?"]),
    "unknown option": (["--overwrit"], ["unknown option --overwrit", "did you mean --overwrite?"]),
    "wrong type": (["--run.max_steps", "many"], ["run.max_steps", "integer", "many"]),
    "half a step": (["--run.max_steps", "1.5"], ["run.max_steps", "integer", "1.5"]),
    "not a number": (["--optim.lr", "nan"], ["optim.lr"]),
    "out of range": (["--optim.lr", "-1"], ["optim.lr", "greater than 0", "-1"]),
    "no such choice": (["--grpo.advantage", "mean"], ["grpo.advantage", "'std' or 'none'", "mean"]),
    "null where there is none": (["--run.seed", "None"], ["run.seed", "None"]),
    "no value": (["--run.seed"], ["run.seed", "needs a value"]),
    "stray word": (["run.seed", "3"], ["run.seed", "--section.key value"]),
    "top_p": (["--rollout.top_p", "0.9"], ["command line", "rollout.top_p cannot be set", "whole distribution"]),
    "top_k": (["--rollout.top_k", "50"], ["command line", "rollout.top_k cannot be set", "whole distribution"]),
    "groups do not divide": (["--rollout.episodes", "30"], ["rollout.episodes 30", "grpo.group_size 8"]),
    "minibatches do not divide": (["--grpo.minibatches", "5"], ["32 groups", "grpo.minibatches"]),
    "unknown environment": (["--env.id", "llmgym/TicTacTow-v0"], ["env", "TicTacTow"]),
    "environment that shows no text": (["--env.id", "CartPole-v1"], ["env.id", "CartPole-v1", "ndarray", "text"]),
    "unknown environment setting": (["--env.colour", "red"], ["env", "colour"]),
    "wrong environment setting": (["--env.seat", "7"], ["env", "seat", "7"]),
    "unknown opponent": (["--env.opponent", "grandmaster"], ["env", "opponent", "grandmaster", "minimax"]),
    "no model folder": (["--model.path", "./nowhere"], ["model.path", "no folder", "nowhere"]),
    "no folder in a folder": (["--model.path", "used/nowhere"], ["model.path", "no folder", "used/nowhere"]),
    "neither folder nor id": (["--model.path", "a/b/c"], ["model.path", "a/b/c"]),
    "folder without a model": (["--model.path", "used"], ["model.path", "used", "config.json"]),
    "a file for a model": (["--model.path", "bad.yaml"], ["model.path", "bad.yaml"]),
    "used run folder": (["--run.dir", "used"], ["used", "--resume", "--overwrite", "--run.dir"]),
    "run folder that is a file": (["--run.dir", "bad.yaml/run"], ["run.dir", "bad.yaml"]),
}


def files_of_the_wrong_cases() -> None:
    Path("bad.yaml").write_text("grpo: {groupsize: 8}")
    Path("torn.yaml").write_text("run: {seed: [1, 2\nenv: ]")
    Path("list.yaml").write_text("- run")
    Path("used").mkdir()
    Path("used/config.yaml").write_text("run: {}")


def check_one_line(error: str, words: list[str]) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    for word in words:
        assert word in error


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_that_names_it_and_status_2(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files_of_the_wrong_cases()
    monkeypatch.setattr(grpo, "train", lambda *given: pytest.fail("training started"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    argv, words = WRONG[case]
    with pytest.raises(SystemExit) as ended:
        grpo.main(argv)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    check_one_line(said.err, words)
    assert not Path("runs").exists()


def test_groups_divide_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GrpoConfig.model_validate({"rollout": {"episodes": 24}, "grpo": {"group_size": 8}})
    grpo.check(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"3 groups .* 2 process"):
        grpo.check(config)


def test_the_script_ends_with_one_line_and_status_2() -> None:
    files_of_the_wrong_cases()
    cases = ["unknown setting", "folder without a model"]
    script = [sys.executable, str(REPOSITORY / "algos" / "grpo.py")]
    started = [
        subprocess.Popen([*script, *WRONG[case][0]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for case in cases
    ]
    for case, process in zip(cases, started, strict=True):
        out, error = process.communicate(timeout=300)
        assert (process.returncode, out) == (2, "")
        check_one_line(error, WRONG[case][1])
    assert not Path("runs").exists()


def test_an_earlier_run_is_replaced_only_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    files_of_the_wrong_cases()
    Path("used/metrics.jsonl").write_text("{}\n")
    started: list[bool] = []
    monkeypatch.setattr(grpo, "train", lambda config, sources, resume: started.append(resume))
    grpo.main(["--run.dir", "used", "--resume"])
    assert Path("used/metrics.jsonl").exists()
    grpo.main(["--run.dir", "used", "--overwrite"])
    assert list(Path("used").iterdir()) == []
    assert started == [True, False]


def test_an_environment_setting_on_the_command_line_holds_in_evaluation_too(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("env: {opponent: [random, minimax], seat: 1}\neval: {env: {opponent: random, seat: 0}}\n")
    config, _, _ = load(GrpoConfig, ["--config", str(file)])
    assert config.eval.env == {"opponent": "random", "seat": 0}
    config, _, _ = load(GrpoConfig, ["--config", str(file), "--env.opponent", "minimax"])
    assert (config.env.settings["opponent"], config.eval.env) == ("minimax", {"seat": 0})
