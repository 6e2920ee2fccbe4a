"""``--help`` of the trainers: every setting with its meaning, default and sources; no torch before the arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from algos.config.help import as_yaml
from algos.config.load import check_arguments
from algos.config.schema import TrainConfig
from algos.config.scripts import script_of, scripts
from algos.grpo import GrpoConfig
from algos.ppo import PpoConfig
from algos.sft import SftConfig
from algos.spiral import SpiralConfig

SCHEMAS = {"grpo": GrpoConfig, "ppo": PpoConfig, "spiral": SpiralConfig, "sft": SftConfig}
PROGRAM = """
import contextlib, io, json, runpy, sys
answers = {}
for script in json.loads(sys.argv[1]):
    for words in (["--run.max_stepz", "3"], ["--help"]):
        sys.argv[:] = [script, *words]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as ended:
                status = ended.code
        answers[f"{script} {words[0]}"] = [status, out.getvalue(), err.getvalue(), "torch" in sys.modules]
print(json.dumps(answers))
"""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LLM_GYM_") and "__" in name:
            monkeypatch.delenv(name)


def said(schema: type[TrainConfig], words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        check_arguments(schema, words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_setting_is_in_the_help_with_meaning_default_and_variable(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(said(SCHEMAS[name], ["--help"], capsys).split())
    values = SCHEMAS[name]().model_dump(mode="json")
    count = 0
    for section, part in SCHEMAS[name].model_fields.items():
        assert f"section {section}: YAML `{section}: {{KEY: VALUE}}`, variables LLM_GYM_{section.upper()}__KEY" in text
        for key, field in part.annotation.model_fields.items():
            entry = text.partition(f" --{section}.{key} ")[2].partition(f"LLM_GYM_{section}__{key})".upper())[0]
            assert str(field.description) in entry
            assert f"default {as_yaml(values[section][key])}" in entry
            count += 1
    assert count == sum(map(len, values.values())) > 30
    for option in ("--config FILE", "--profile NAME", "--resume", "--overwrite"):
        assert option in text
    if "curriculum" in values:
        assert "threshold (NUMBER or null): Success rate at which the next stage begins" in text


def test_bounds_and_choices_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(PpoConfig, ["--help"], capsys).split())
    assert (
        "--ppo.gamma NUMBER Discount per step of GAE. (at least 0; at most 1; default 1.0; LLM_GYM_PPO__GAMMA)" in text
    )
    assert "--ppo.critic {shared,separate} " in text
    assert "--ppo.epochs INTEGER Passes over each step's episodes. (at least 1; default 2;" in text
    assert "--ppo.value_clip NUMBER or null " in text
    assert "--model.gradient_checkpointing true|false " in text


def test_the_help_of_one_section_shows_that_section_only(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(GrpoConfig, ["--help", "optim"], capsys)
    assert "--optim.lr" in text
    assert "--run.seed" not in text
    with pytest.raises(SystemExit) as ended:
        check_arguments(GrpoConfig, ["--help", "optm"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --help optm: no such section; did you mean optim?\n"


def test_the_defaults_of_an_algorithm_are_its_own() -> None:
    clips = {name: getattr(SCHEMAS[name](), name).clip_high for name in ("grpo", "ppo", "spiral")}
    assert clips == {"grpo": 0.28, "ppo": 0.2, "spiral": 0.2}
    passes = {n: (getattr(SCHEMAS[n](), n).epochs, getattr(SCHEMAS[n](), n).minibatches) for n in clips}
    assert passes == {"grpo": (1, 1), "ppo": (2, 4), "spiral": (1, 1)}


def test_arguments_that_are_right_pass_and_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    check_arguments(GrpoConfig, ["--config", "grpo_tictactoe_tiny", "--profile", "auto", "--run.max_steps", "3"])
    assert capsys.readouterr() == ("", "")


def test_each_script_answers_before_it_imports_torch(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    program = [sys.executable, "-c", PROGRAM, json.dumps([str(file) for file in scripts().values()])]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert set(scripts()) == set(SCHEMAS)
    for name, file in scripts().items():
        wrong = "error: command line: unknown setting 'run.max_stepz'; did you mean run.max_steps?\n"
        assert answers[f"{file} --run.max_stepz"] == [2, "", wrong, False]
        status, out, err, torch = answers[f"{file} --help"]
        assert (status, err, torch) == (0, "", False)
        assert out.startswith(f"usage: {name}.py ")
        assert f"--{name}." in out


def test_a_files_script_is_the_one_whose_section_it_has() -> None:
    assert script_of(["run", "sft", "spiral"]) == "spiral"
    assert script_of(["run", "sft"]) == "sft"
    assert script_of(["run", "env"]) is None
