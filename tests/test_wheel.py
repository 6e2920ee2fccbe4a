"""The wheel holds all that training needs, outside of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SMALL = {
    "run.max_steps": 1,
    "run.dir": "run",
    "rollout.episodes": 16,
    "grpo.group_size": 4,
    "grpo.minibatches": 1,
    "sft.episodes": 100,
    "sft.steps": 10,
    "sft.batch": 32,
    "eval.episodes": 10,
    "eval.extra": [],
    "eval.exact": False,
}
"""`grpo_tictactoe_tiny` in less than a minute."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel; built without a network, by the build backend that is installed."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(REPOSITORY), *options], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_holds_packages_recipes_profiles_assets_and_types(unpacked: Path) -> None:
    for file in (REPOSITORY / "configs").rglob("*.*"):
        assert (unpacked / "algos" / file.relative_to(REPOSITORY)).read_bytes() == file.read_bytes()
    for name in ("page.html", "page.css", "page.js"):
        assert (unpacked / "algos" / "report" / name).is_file()
    for package in ("llm_gym", "algos"):
        assert (unpacked / package / "py.typed").is_file()
        sources = {file.relative_to(REPOSITORY) for file in (REPOSITORY / package).rglob("*.py")}
        assert sources == {file.relative_to(unpacked) for file in (unpacked / package).rglob("*.py")}
    assert (unpacked / "llm_gym" / "games" / "mbpp" / "own_tasks.jsonl").is_file()
    assert {folder.name for folder in unpacked.iterdir() if "dist-info" not in folder.name} == {"llm_gym", "algos"}


def test_it_trains_a_recipe_by_name_outside_of_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    words = [word for key, value in SMALL.items() for word in (f"--{key}", json.dumps(value).strip('"'))]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLM_GYM_")}
    env |= {"PYTHONPATH": str(unpacked), "LLM_GYM_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "llm_gym.cli", "train", "grpo", "--config", "grpo_tictactoe_tiny"]
    done = subprocess.run(
        [*command, "--profile", "cpu", *words],
        cwd=tmp_path, env=env | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1
    assert (tmp_path / "run" / "report.html").is_file()
    settings = (tmp_path / "run" / "config.yaml").read_text()
    assert "# grpo_tictactoe_tiny\n" in settings
    assert "# profile cpu\n" in settings
    where = subprocess.run(
        [sys.executable, "-c", "import algos.grpo, llm_gym; print(algos.grpo.__file__, llm_gym.__file__)"],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.count(str(unpacked)) == 2  # nothing came from the checkout
