"""``llm-gym train`` runs the scripts of ``algos``, whichever there are; ``llm-gym configs`` lists what they run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from algos.config.recipes import recipes
from llm_gym import cli

REPOSITORY = Path(__file__).parents[3]
SCRIPT = '''"""A new algorithm."""
import sys
import __main__
from algos.config.load import check_arguments
from algos.config.schema import Config


class NewConfig(Config):
    pass


if __name__ == "__main__":
    check_arguments(NewConfig)
    print(__main__.__file__, NewConfig.__module__, sys.argv[1:])
'''


def run(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLM_GYM_") or "__" not in name}
    program = [sys.executable, "-m", "llm_gym.cli", *words]
    return subprocess.run(program, capture_output=True, text=True, cwd=cwd, env=env | {"PYTHONPATH": str(cwd)})


def test_a_new_script_needs_no_registration_and_runs_as_one(tmp_path: Path) -> None:
    for package in ("llm_gym", "algos"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "algos" / "reinforce.py").write_text(SCRIPT)
    (tmp_path / "algos" / "pieces.py").write_text("ONE = 1  # no script\n")
    done = run(tmp_path, "train", "reinforce", "--run.seed", "3", "--rollout.max_new_tokens=4")
    words = ["--run.seed", "3", "--rollout.max_new_tokens=4"]
    assert done.stdout == f"{tmp_path / 'algos' / 'reinforce.py'} __main__ {words}\n", done.stderr
    unknown = run(tmp_path, "train", "pieces")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    for name in ("grpo", "ppo", "reinforce", "sft", "spiral"):
        assert name in unknown.stderr
    wrong = run(tmp_path, "train", "reinforce", "--run.sed", "3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: command line: unknown setting 'run.sed'; did you mean run.seed?\n"
    assert "usage: reinforce.py " in run(tmp_path, "train", "reinforce", "--help").stdout


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["configs"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["name", "trainer", "environment", "model"]
    assert [line.split()[0] for line in lines] == list(recipes())
    assert all(line.split()[1] == line.partition("_")[0] for line in lines)  # as the names of these files say
    (line,) = [line for line in lines if line.startswith("grpo_code_qwen3-4b ")]
    cells = ["grpo_code_qwen3-4b", "grpo", "llmgym/CodeExecution-v0", "Qwen/Qwen3-4B", "GRPO"]
    assert line.split()[:5] == cells
