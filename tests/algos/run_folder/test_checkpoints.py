"""Checkpoints are whole or absent, and ordinary Hugging Face folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from algos.model.load import load_model
from algos.run_folder import checkpoints as checkpoint

READ_ALONE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
said = [{"role": "system", "content": "Rules."}, {"role": "user", "content": "0 1 2"}]
ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
logits = model(torch.tensor([ids])).logits[0, -1]
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("algos", "llm_gym"))
print(json.dumps({"ids": ids, "logits": logits.tolist(), "kind": type(model).__name__, "ours": ours}))
"""


@pytest.fixture
def tiny(tiny_folder: Path) -> tuple[Any, Any]:
    return load_model(tiny_folder)


def names(run: Path) -> list[str]:
    return [folder.name for folder in checkpoint.all_of(run)]


def test_what_was_saved_comes_back(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor([[1, 2]])).logits.sum().backward()
    optimizer.step()
    state = {"episodes": 7, "before": {"win_rate": 0.5}, "optimizer": optimizer.state_dict()}
    folder = checkpoint.save(tmp_path, 3, model, tokenizer, state, keep=2)
    assert folder == tmp_path / "checkpoints" / "step_000003"
    again = checkpoint.load_state(folder)
    assert (again["step"], again["episodes"], again["before"]) == (3, 7, {"win_rate": 0.5})
    for number, moments in optimizer.state_dict()["state"].items():
        assert torch.equal(again["optimizer"]["state"][number]["exp_avg_sq"], moments["exp_avg_sq"])
    reloaded, _ = load_model(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value)


def test_only_the_newest_are_kept_in_order_of_steps(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        checkpoint.save(tmp_path, step, *tiny, {}, keep=2)
    assert names(tmp_path) == ["step_000010", "step_000100"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_best_stays_beside_the_newest(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, *tiny, {}, keep=1, best=2)
    assert names(tmp_path) == ["step_000002", "step_000004"]
    checkpoint.save(tmp_path, 5, *tiny, {}, keep=1, best=5)
    assert names(tmp_path) == ["step_000005"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_an_old_checkpoint_that_is_half_removed_does_not_look_whole(
    tiny: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, *tiny, {}, keep=1)
    real = shutil.rmtree

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if ignore_errors:
            return real(folder, ignore_errors)
        (folder / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, *tiny, {}, keep=1)
    assert names(tmp_path) == ["step_000002"]


def test_a_torn_checkpoint_is_never_picked_up_and_is_replaced(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    """A process can die while it writes, or while it removes an old one."""
    whole = checkpoint.save(tmp_path, 2, *tiny, {"episodes": 2}, keep=5)
    unfinished = shutil.copytree(whole, whole.with_name("step_000004.tmp"))
    stateless = shutil.copytree(whole, whole.with_name("step_000006"))
    (stateless / checkpoint.STATE_FILE).unlink()
    assert names(tmp_path) == ["step_000002"]
    checkpoint.save(tmp_path, 4, *tiny, {"episodes": 4}, keep=5)
    checkpoint.save(tmp_path, 6, *tiny, {"episodes": 6}, keep=5)
    assert names(tmp_path) == ["step_000002", "step_000004", "step_000006"]
    assert [checkpoint.load_state(folder)["episodes"] for folder in checkpoint.all_of(tmp_path)] == [2, 4, 6]
    assert not unfinished.exists()


def test_no_run_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoint.all_of(tmp_path / "nowhere") == []


def test_a_checkpoint_loads_without_this_package(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    folder = checkpoint.save(tmp_path, 1, model, tokenizer, {}, keep=1)
    command = [sys.executable, "-c", READ_ALONE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert (read["kind"], read["ours"]) == ("Qwen3ForCausalLM", [])
    text = "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\n0 1 2<|im_end|>\n<|im_start|>assistant\n"
    assert read["ids"] == tokenizer.encode(text, add_special_tokens=False)
    expected = model(torch.tensor([read["ids"]])).logits[0, -1]
    torch.testing.assert_close(torch.tensor(read["logits"]), expected, rtol=1e-5, atol=1e-5)
