"""The results page, in a quick form: one recipe for one step, twice the same seed and once another."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "results.py"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, its page and its store in a folder of their own."""
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "results", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STORE", tmp_path / "results")
    monkeypatch.setattr(module, "PAGE", tmp_path / "RESULTS.md")
    return module


def test_a_recipe_is_run_and_a_seed_run_again_replaces_its_entry(
    results: ModuleType, tmp_path: Path, tiny_folder: Path
) -> None:
    quick = [*f"--model {tiny_folder} --run.max_steps 1 --rollout.episodes 8 --eval.episodes 4 --eval.every 1".split()]
    for seed in (1, 0, 1):
        results.train("spiral_kuhn", seed, quick)
    entries = json.loads((tmp_path / "results" / "spiral_kuhn.json").read_text())
    assert [entry["seed"] for entry in entries] == [0, 1]
    assert all(0 < entry["before"]["nash_conv"] < 4 and len(entry["curve"]) == 1 for entry in entries)
    results.write_page()
    page = (tmp_path / "RESULTS.md").read_text()
    [row] = [line for line in page.splitlines() if "NashConv](#spiral-kuhn)" in line]
    values = [entry["after"]["nash_conv"] for entry in entries]
    assert f"| {sum(values) / 2:.3g} [" in row
    assert "| SPIRAL, tic-tac-toe, self-play: losses to random | | |" in page  # not measured: empty
    assert (tmp_path / "results" / "spiral_kuhn.svg").read_text().startswith("<svg xmlns=")


def test_every_recipe_starts_from_a_file_of_configs(results: ModuleType) -> None:
    for recipe in results.RECIPES.values():
        assert (SCRIPT.parents[1] / "configs" / f"{recipe.config}.yaml").exists()
