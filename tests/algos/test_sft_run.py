"""``algos/sft.py`` is a run like the others: evaluations, checkpoints, and resuming to the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from algos import sft
from algos.run_folder import checkpoints

SETTINGS = {
    "run.trackers": "[]",
    "sft.episodes": 20,
    "sft.steps": 4,
    "sft.batch": 16,
    "rollout.max_new_tokens": 8,
    "rollout.episodes": 8,
    "eval.episodes": 4,
}


def train(folder: Path, *flags: str, **changed: Any) -> None:
    given = SETTINGS | {"run.dir": folder} | {name.replace("__", "."): value for name, value in changed.items()}
    sft.main([word for name, value in given.items() for word in (f"--{name}", str(value))] + list(flags))


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_it_evaluates_before_during_and_after_and_saves_where_it_is_told(tmp_path: Path) -> None:
    extra = json.dumps([{"name": "kuhn", "id": "llmgym/KuhnPoker-v0", "episodes": 3, "max_new_tokens": 5}])
    train(tmp_path / "run", eval__every=2, eval__extra=extra, run__save_every=1, run__keep=9)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert ["eval/win_rate" in line for line in lines] == [False, True, False, True]
    assert ["kuhn/mean_return" in line for line in lines] == [False, True, False, True]
    assert all(line["losses/sft"] > 0 for line in lines)
    assert [folder.name for folder in checkpoints.all_of(tmp_path / "run")] == [f"step_00000{n}" for n in (1, 2, 3, 4)]
    told = summary(tmp_path / "run")
    assert (told["algorithm"], told["steps"], told["episodes"]) == ("sft", 4, 20)
    assert (told["before"]["episodes"], told["after"]["extra"]["kuhn"]["episodes"]) == (4, 3)


def test_a_run_that_was_killed_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(whole, run__save_every=2, run__keep=9)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step_000004")
    train(again, "--resume", run__save_every=2)
    assert metrics(again) == metrics(whole)
    one, other = (load_file(run / "checkpoints/step_000004/model.safetensors") for run in (whole, again))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_mbpp_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"ENABLED": "1", "NUM_QUESTIONS": "2", "AT_START": "0", "SPLIT": "train"}.items():
        monkeypatch.setenv(f"MBPP_EVAL_{name}", value)
    monkeypatch.setenv("MBPP_MAX_NEW_TOKENS", "4")
    train(tmp_path / "run", eval__episodes=0)
    told = summary(tmp_path / "run")
    assert "extra" not in told["before"]
    assert told["after"]["extra"]["mbpp_eval"]["problems"] == 2


@pytest.mark.parametrize(("changed", "steps"), [({}, 4), ({"run__max_steps": 2}, 2)])
def test_run_max_steps_is_sft_steps_unless_it_is_given(tmp_path: Path, changed: dict[str, int], steps: int) -> None:
    train(tmp_path / "run", **changed)
    assert summary(tmp_path / "run")["steps"] == steps
    assert f"max_steps: {steps} " in (tmp_path / "run" / "config.yaml").read_text()


def test_more_steps_than_the_schedule_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run", run__max_steps=9)
    assert ended.value.code == 2
    assert "run.max_steps 9" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
