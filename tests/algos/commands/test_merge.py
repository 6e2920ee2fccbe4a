"""``llm-gym merge``: an ordinary folder that answers as base and adapter did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from algos.config.schema import ModelSection
from algos.model.load import load_model
from algos.run_folder import checkpoints as checkpoint
from llm_gym import cli

IDS = torch.tensor([[5, 9, 33, 100, 7, 8]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def saved(run: Path, base: Path, settings: ModelSection) -> tuple[Path, torch.Tensor]:
    """A checkpoint of the run, its adapters far from zero, and the logits it was saved with."""
    model, tokenizer = load_model(base, settings)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    return checkpoint.save(run, 1, model, tokenizer, {"optimizer": {}}, keep=1), logits(model)


def test_a_merged_folder_answers_as_base_and_adapter_and_needs_neither(tiny_folder: Path, tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, tiny_folder, ModelSection(lora_rank=4))
    base, tokenizer = load_model(tiny_folder)
    assert (logits(base) - expected).abs().max() > 0.5
    cli.main(["merge", str(folder), "--out", str(tmp_path / "merged")])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert not names & {"adapter_config.json", "adapter_model.safetensors", checkpoint.STATE_FILE}
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == tokenizer.chat_template


def test_four_bit_adapters_are_merged_into_what_four_bits_left_of_the_base(tiny_folder: Path, tmp_path: Path) -> None:
    """On the original weights the same adapter is another policy: those are not the ones it was trained on."""
    pytest.importorskip("bitsandbytes")
    folder, expected = saved(tmp_path, tiny_folder, ModelSection(lora_rank=4, quantize="nf4"))
    cli.main(["merge", str(folder), "--out", str(tmp_path / "on_original")])
    cli.main(["merge", str(folder), "--out", str(tmp_path / "told"), "--quantize", "nf4"])
    (tmp_path / "config.yaml").write_text("model:\n  quantize: nf4\n")
    cli.main(["merge", str(folder), "--out", str(tmp_path / "read")])
    for name in ("told", "read"):
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
        assert "quantization_config" not in json.loads((tmp_path / name / "config.json").read_text())
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "on_original")
    assert (logits(other) - expected).abs().max() > 0.1


def test_a_whole_checkpoint_is_exported_in_the_dtype_asked_for(tiny_folder: Path, tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, tiny_folder, ModelSection())
    cli.main(["merge", str(folder), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"])
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.bfloat16
    assert not (tmp_path / "half" / checkpoint.STATE_FILE).exists()
    torch.testing.assert_close(logits(half).float(), expected, rtol=0.05, atol=0.2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{tmp}/nowhere", "--out", "{tmp}/new"], "there is no folder"),
        (["{tmp}", "--out", "{tmp}/new"], "holds no model"),
        (["{tiny}", "--out", "{tiny}"], "name a new folder"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    words: list[str], said: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["merge", *(word.format(tmp=tmp_path, tiny=tiny_folder) for word in words)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
