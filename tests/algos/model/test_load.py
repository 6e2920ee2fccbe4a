"""What a model is loaded as, what is refused before it loads, and gradient checkpointing."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro_model, some_rows

from algos.config.load import load
from algos.config.schema import Config, ModelSection
from algos.data.batching import Batch
from algos.data.rows import Row
from algos.engines.hf import HFEngine
from algos.errors import ConfigError
from algos.model.forward import Policy
from algos.model.load import check_settings, load_model


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds an adapter of rank 4 and its tokenizer."""
    folder = tmp_path_factory.mktemp("adapter")
    model, tokenizer = load_model(tiny_folder, ModelSection(lora_rank=4))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantize": "nf4"}, "set model.lora_rank"),
        ({"attention": "flash_attention_2"}, "needs model.dtype bfloat16 or float16"),
        ({"path": "/nowhere"}, "there is no folder"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        check_settings(ModelSection(**settings))
    assert "\n" not in str(refused.value)


def test_a_missing_bitsandbytes_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # type: ignore[arg-type]  # what Python calls not there
    with pytest.raises(ConfigError, match=r'needs bitsandbytes: pip install "llm-gym\[quantize\]"'):
        check_settings(ModelSection(quantize="nf4", lora_rank=8))


def test_dropout_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"model\.lora_dropout cannot be set: the policy that is trained must be the"):
        load(Config, ["--model.lora_dropout", "0.1"])


def test_an_adapter_is_a_model_and_keeps_its_rank(adapter: Path) -> None:
    check_settings(ModelSection(path=str(adapter)))
    check_settings(ModelSection(path=str(adapter), lora_rank=4))
    with pytest.raises(ConfigError, match=r"model\.lora_rank 8: the adapter in .* has rank 4"):
        check_settings(ModelSection(path=str(adapter), lora_rank=8))


def test_an_adapter_whose_base_is_gone_is_refused(adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    gone = tmp_path / "gone"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(gone)}))
    with pytest.raises(ConfigError, match=rf"belongs to {gone}, where there is no model"):
        check_settings(ModelSection(path=str(tmp_path)))


def test_layers_that_are_not_there_are_refused_in_one_line(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.lora_targets: .*c_attn") as refused:
        load_model(tiny_folder, ModelSection(lora_rank=2, lora_targets=["c_attn"]))
    assert "\n" not in str(refused.value)


def test_named_layers_alone_get_adapters(tiny_folder: Path) -> None:
    config, _, _ = load(Config, ["--model.lora_rank", "2", "--model.lora_targets", "[q_proj, v_proj]"])
    model, _ = load_model(tiny_folder, config.model)
    trained = {name.split(".")[-4] for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"q_proj", "v_proj"}


def dtypes(model: Any, trained: bool) -> set[torch.dtype]:
    return {value.dtype for value in model.parameters() if value.requires_grad is trained}


def test_trained_weights_are_float32_and_a_frozen_base_is_in_the_dtype_set(tiny_folder: Path) -> None:
    half = ModelSection(dtype="bfloat16")
    whole, _ = load_model(tiny_folder, half)
    assert (dtypes(whole, True), dtypes(whole, False)) == ({torch.float32}, set())
    adapted, _ = load_model(tiny_folder, half.model_copy(update={"lora_rank": 2}))
    assert (dtypes(adapted, True), dtypes(adapted, False)) == ({torch.float32}, {torch.bfloat16})
    frozen, _ = load_model(tiny_folder, trainable=False)
    assert dtypes(frozen, True) == set()
    assert not any(model.training for model in (whole, adapted, frozen))


def test_new_adapters_are_the_same_in_every_process_and_take_no_random_numbers(tiny_folder: Path) -> None:
    settings = ModelSection(lora_rank=2)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, _ = load_model(tiny_folder, settings)
    assert torch.equal(torch.rand(3), expected)
    second, _ = load_model(tiny_folder, settings)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_adapter_finds_its_base_from_any_directory(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    model, _ = load_model(tiny_folder.name, ModelSection(lora_rank=2))
    model.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert dtypes(load_model(tmp_path)[0], True) == {torch.float32}


def test_attention_is_computed_as_set(tiny_folder: Path) -> None:
    for name in ("eager", "sdpa"):
        model, _ = load_model(tiny_folder, ModelSection.model_validate({"attention": name}))
        assert model.config._attn_implementation == name


def gradients(model: Any, rows: list[Row]) -> list[torch.Tensor]:
    batch = Batch.of(rows)
    logprobs = Policy(model, 0.7)(batch).logprobs
    loss = (logprobs * batch.at_actions(batch.advantages)).sum()
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def runs_of_first_layer(model: Any, action: Callable[[], Any]) -> int:
    """How often the first layer's attention ran."""
    runs: list[bool] = []
    attention = next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn"))
    hook = attention.register_forward_hook(lambda *_: runs.append(True))
    action()
    hook.remove()
    return len(runs)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradient_checkpointing_computes_layers_again_and_changes_no_gradient(training: bool) -> None:
    rows, model = some_rows(7), micro_model().train(training)
    expected = gradients(model, rows)
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable({"use_reentrant": False})
    found: list[torch.Tensor] = []
    assert runs_of_first_layer(checkpointed, lambda: found.extend(gradients(checkpointed, rows))) == 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert all(module.training is training for module in checkpointed.modules())


def test_gradient_checkpointing_changes_no_adapters_gradient(tiny_folder: Path) -> None:
    rows = some_rows(5)
    plain, _ = load_model(tiny_folder, ModelSection(lora_rank=4))
    again, _ = load_model(tiny_folder, ModelSection(lora_rank=4, gradient_checkpointing=True))
    expected, found = (torch.cat([slope.flatten() for slope in gradients(m, rows)]) for m in (plain, again))
    assert expected.norm() > 1
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_sampling_keeps_its_cache_under_gradient_checkpointing(tiny_folder: Path) -> None:
    """Trap: the layers drop the key-value cache in train mode, and each token would be sampled without its prompt."""
    rng = random.Random(0)
    prompts = [[rng.randrange(60) for _ in range(9)] for _ in range(3)]
    samples = []
    for checkpointing in (False, True):
        model, _ = load_model(tiny_folder, ModelSection(lora_rank=2, gradient_checkpointing=checkpointing))
        model.train()
        seen: list[int] = []
        model.get_input_embeddings().register_forward_hook(
            lambda module, given, out, s=seen: s.append(given[0].shape[1])
        )
        engine = HFEngine(model, set(), 4)
        samples.append(engine.generate(prompts, 1.0, torch.Generator().manual_seed(0)))
        assert seen[-3:] == [1, 1, 1]
        assert model.training
    assert samples[0] == samples[1]


def test_a_pass_without_gradient_shares_prompts_under_gradient_checkpointing() -> None:
    model, rows = micro_model(dtype=torch.float32), some_rows(6)
    expected = Policy(model, 1.0)(Batch.of(rows)).logprobs
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    seen: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    with torch.no_grad():
        found = Policy(model, 1.0)(Batch.of(rows)).logprobs
    assert len(seen) == 3  # the common prefix, the distinct rests, the rows
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
