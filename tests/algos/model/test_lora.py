"""Adapters alone are trained, whatever the base is kept in; switched off they are the reference; PEFT loads them."""

from __future__ import annotations

import copy
import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import some_rows
from peft import AutoPeftModelForCausalLM

from algos.config.schema import ModelSection
from algos.data.batching import Batch
from algos.data.rows import Row
from algos.engines.hf import HFEngine
from algos.maths.losses import clipped_surrogate
from algos.model.forward import Policy
from algos.model.load import load_model
from algos.model.reference import ReferenceModel
from algos.run_folder import checkpoints as checkpoint

PLAIN = ModelSection(lora_rank=4)
NF4 = ModelSection(lora_rank=4, quantize="nf4")
needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
BASES = [pytest.param(PLAIN, id="float32"), pytest.param(NF4, id="nf4", marks=needs_bitsandbytes)]


def sampled_rows(model: Any, seed: int) -> list[Row]:
    """What the model says to random prompts, with random advantages."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(200) for _ in range(rng.randint(3, 9))] for _ in range(12)]
    replies = HFEngine(model, {2}, 6).generate(prompts, 1.0, torch.Generator().manual_seed(seed))
    return [
        Row(prompt, reply.ids, [True] * len(reply.ids), reply.logprobs, [rng.gauss(0, 1)] * len(reply.ids))
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def trained(folder: Path, settings: ModelSection, steps: int = 3) -> tuple[Any, Any]:
    """A model after some updates on its own replies, and its tokenizer."""
    model, tokenizer = load_model(folder, settings)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for step in range(steps):
        batch = Batch.of(sampled_rows(model, step))
        logprobs = Policy(model, 1.0)(batch).logprobs
        old, advantages = batch.at_actions(batch.old_logprobs), batch.at_actions(batch.advantages)
        clipped_surrogate(logprobs - old, advantages, 0.2, 0.28).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


@pytest.mark.parametrize("settings", BASES)
def test_training_changes_the_adapters_and_not_one_bit_of_the_base(tiny_folder: Path, settings: ModelSection) -> None:
    before = load_model(tiny_folder, settings)[0].state_dict()
    after = trained(tiny_folder, settings)[0].state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if ".lora_" in name}


@pytest.mark.parametrize("settings", BASES)
def test_the_reference_is_the_base_model_exactly(tiny_folder: Path, settings: ModelSection) -> None:
    batch = Batch.of(some_rows(6))
    alone, _ = load_model(tiny_folder, settings, trainable=False)
    with torch.no_grad():
        expected, entropy, *_ = Policy(alone, 0.7)(batch)
    model, _ = trained(tiny_folder, settings)
    adapted = Policy(model, 0.7)(batch).logprobs
    assert (adapted - expected).abs().max() > 0.05
    found = ReferenceModel.of(model, 0.7, base="not read")(batch)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], entropy)
    assert not found[0].requires_grad


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_asking_the_reference_before_the_backward_pass_leaves_the_gradient(
    tiny_folder: Path, checkpointing: bool
) -> None:
    """PEFT turns its adapters' gradients off and on again to disable them, and layers may yet be computed again."""
    batch = Batch.of(some_rows(6))
    model, _ = load_model(tiny_folder, PLAIN.model_copy(update={"gradient_checkpointing": checkpointing}))
    model.train()
    gradients = []
    for ask in (False, True):
        loss = (Policy(model, 1.0)(batch)[0] * batch.at_actions(batch.advantages)).sum()
        if ask:
            ReferenceModel.of(model, 1.0)(batch)
            assert model.training
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    assert len(gradients[0]) == sum(p.requires_grad for p in model.parameters())
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_without_adapters_the_reference_is_a_copy_that_stays(tiny_folder: Path) -> None:
    batch = Batch.of(some_rows(6))
    model, _ = load_model(tiny_folder)
    reference = ReferenceModel.of(model, 1.0)
    expected = Policy(model, 1.0)(batch)[0].detach()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.01)
    resumed = ReferenceModel.of(model, 1.0, base=tiny_folder)
    for found in (reference, resumed):
        assert torch.equal(found(batch)[0], expected)
        assert not any(value.requires_grad for value in found.parameters())
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("settings", BASES)
def test_what_samples_is_what_is_trained(tiny_folder: Path, settings: ModelSection) -> None:
    """Trap: adapters that never reached the sampler."""
    model, _ = trained(tiny_folder, settings)
    batch = Batch.of(sampled_rows(model, 7))
    logprobs = Policy(model, 1.0)(batch).logprobs
    torch.testing.assert_close(logprobs, batch.at_actions(batch.old_logprobs), rtol=1e-5, atol=1e-5)
    without = ReferenceModel.of(model, 1.0)(batch).logprobs
    assert (without - batch.at_actions(batch.old_logprobs)).abs().max() > 0.05


@needs_bitsandbytes
def test_sampling_in_four_bits_leaves_the_gradient(tiny_folder: Path) -> None:
    """Trap: on some CPUs bitsandbytes repacks weights when a model samples; layers below get a wrong gradient then."""
    model, _ = trained(tiny_folder, NF4, steps=0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.01)
    sampled = copy.deepcopy(model)
    sampled_rows(sampled, 0)
    batch = Batch.of(some_rows(6))
    for one in (model, sampled):
        (Policy(one, 1.0)(batch)[0] * batch.at_actions(batch.advantages)).sum().backward()
    for first, second in zip(model.parameters(), sampled.parameters(), strict=True):
        assert first.grad is None or torch.equal(first.grad, second.grad)
    assert sum(value.grad is not None for value in sampled.parameters()) == 28


@pytest.mark.parametrize("settings", BASES)
def test_a_checkpoint_holds_adapters_that_plain_peft_loads(
    tiny_folder: Path, tmp_path: Path, settings: ModelSection
) -> None:
    model, tokenizer = trained(tiny_folder, settings)
    folder = checkpoint.save(tmp_path, 3, model, tokenizer, {}, keep=1)
    assert not (folder / "model.safetensors").exists()
    options = {"quantization_config": model.config.quantization_config} if settings.quantize else {}
    ids = torch.tensor([[5, 9, 33, 100, 7]])
    with torch.no_grad():
        expected = model(ids).logits
        theirs = AutoPeftModelForCausalLM.from_pretrained(str(folder), **options)
        theirs.train()  # in eval mode bitsandbytes rounds to bfloat16 on some CPUs; there is no dropout
        assert torch.equal(theirs(ids).logits, expected)
        resumed, again = load_model(folder, settings)
        assert torch.equal(resumed(ids).logits, expected)
    assert again.get_vocab() == tokenizer.get_vocab()
    trainable = {name for name, value in resumed.named_parameters() if value.requires_grad}
    assert trainable == {name for name, value in model.named_parameters() if value.requires_grad} != set()
