"""Advantages, loss and gradient against those that TRL computes from the same tokens; skipped where TRL is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from micro import VOCABULARY, micro_model, some_rows
from torch import Tensor

from algos import grpo
from algos.data.batching import Batch
from algos.data.rows import Row
from algos.maths.advantages import group_relative
from algos.maths.losses import Aggregation, token_weights
from algos.model.forward import Policy

trl = pytest.importorskip("trl", minversion="1.16")  # the tests call its trainer's inner steps
from datasets import Dataset  # noqa: E402  # TRL brings it
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

REWARDS = [1.0, 0.0, 0.0, 3.0, -1.5, -1.5, -1.5, -1.5, 0.1, 0.2, -0.4, 7.0]
"""Of three groups of four."""
NEW_TOKENS = 24
LOSS_TYPES: dict[Aggregation, str] = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def trainer_of(tmp_path: Path) -> Callable[..., Any]:
    """Makes TRL's trainer for the micro model, whose tokens are words w0, w1, ..."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w0")

    def make(**settings: Any) -> Any:
        config = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": len(REWARDS),
            "num_generations": 4,
            "max_completion_length": NEW_TOKENS,
            "epsilon": 0.2,
            "epsilon_high": 0.28,
            "beta": 0.0,
            "temperature": 1.0,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
        }
        return trl.GRPOTrainer(
            model=micro_model(),
            reward_funcs=lambda completions, **_: REWARDS[: len(completions)],
            args=trl.GRPOConfig(**config | settings),
            train_dataset=Dataset.from_dict({"prompt": ["w2 w3", "w4 w5", "w6 w7"]}),
            processing_class=tokenizer,
        )

    return make


@pytest.mark.parametrize(("scale", "normalise"), [("group", "std"), ("none", "none")])
def test_group_advantages_are_those_of_trl(
    scale: str, normalise: Literal["std", "none"], trainer_of: Callable[..., Any]
) -> None:
    trainer = trainer_of(scale_rewards=scale)
    prompts = [{"prompt": prompt} for prompt in ("w2 w3", "w4 w5", "w6 w7") for _ in range(4)]
    theirs = trainer._generate_and_score_completions(prompts)["advantages"].double()
    ours = group_relative(torch.tensor(REWARDS).view(3, 4), normalise, eps=1e-4).flatten()
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)  # theirs are float32
    assert ours[4:8].tolist() == [0.0] * 4


def as_trl_has_it(rows: list[Row]) -> dict[str, Tensor]:
    """Rows as the tensors that TRL's loss takes: prompts padded on the left, completions on the right."""

    def pad(lists: list[list[Any]], left: bool = False) -> Tensor:
        width = max(map(len, lists))
        return torch.tensor([[0] * (width - len(x)) + x if left else x + [0] * (width - len(x)) for x in lists])

    actions = pad([[int(taken) for taken in row.action_mask] for row in rows])
    return {
        "prompt_ids": pad([row.prompt_ids for row in rows], left=True),
        "prompt_mask": pad([[1] * len(row.prompt_ids) for row in rows], left=True),
        "completion_ids": pad([row.ids for row in rows]),
        "completion_mask": pad([[1] * len(row.ids) for row in rows]),
        "tool_mask": actions,
        "old_per_token_logps": pad([row.old_logprobs for row in rows]),
        "advantages": pad([row.advantages for row in rows]),
        "num_items_in_batch": actions.sum(),
    }


def near_the_policy(rows: list[Row], spread: float = 0.25) -> list[Row]:
    """Old log-probabilities around those of the policy, so that some ratios are clipped and some are not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        now = Policy(micro_model(), 1.0)(Batch.of(rows)).logprobs
    old = iter((now + spread * torch.randn(len(now), generator=generator)).tolist())
    for row in rows:
        row.old_logprobs = [next(old) if taken else 0.0 for taken in row.action_mask]
    return rows


def gradient(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    return dict(zip([name for name, _ in model.named_parameters()], slopes, strict=True))


def assert_same(ours: Tensor, our_model: torch.nn.Module, theirs: Tensor, their_model: torch.nn.Module) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    mine, other = gradient(our_model, ours), gradient(their_model, theirs)
    norms = [torch.stack([g.norm() for g in slopes.values()]).norm().item() for slopes in (mine, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 1e-3
    for name, slope in mine.items():
        torch.testing.assert_close(slope, other[name], rtol=1e-5, atol=1e-6 * norms[0], msg=name)


def both(
    rows: list[Row], trainer: Any, aggregation: Aggregation, ratio: str
) -> tuple[Tensor, torch.nn.Module, Tensor, torch.nn.Module]:
    """Our loss and model, and TRL's; some tokens are clipped and some are not."""
    counts = torch.tensor([row.action_tokens for row in rows])
    weights = token_weights(counts, aggregation, float(counts.sum()), float(len(rows)), NEW_TOKENS)
    for row, weight in zip(rows, weights.tolist(), strict=True):
        row.weight = weight
    config = grpo.GrpoConfig.model_validate({"grpo": {"clip_low": 0.2, "clip_high": 0.28, "ratio": ratio}})
    batch, policy = Batch.of(rows), Policy(micro_model(), 1.0)
    per_token, figures = grpo.batch_loss(config, batch, policy, None, 0.0)
    assert 0.1 < figures["losses/clipfrac"].double().mean().item() < 0.9
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    theirs = trainer._compute_loss(trainer.model, as_trl_has_it(rows))
    return (per_token * batch.action_weights()).sum(), policy.model, theirs, trainer.model


@pytest.mark.parametrize("aggregation", LOSS_TYPES)
def test_loss_and_gradient_of_a_grpo_step_are_those_of_trl(
    aggregation: Aggregation, trainer_of: Callable[..., Any]
) -> None:
    trainer = trainer_of(loss_type=LOSS_TYPES[aggregation])
    assert_same(*both(near_the_policy(some_rows(7)), trainer, aggregation, "token"))


def test_loss_and_gradient_of_a_gspo_step_are_those_of_trl(trainer_of: Callable[..., Any]) -> None:
    # TRL's sequence is the whole completion: rows of one turn, with one advantage each.
    rows = [row for row in near_the_policy(some_rows(20, seed=3), 0.6) if all(row.action_mask)]
    assert len(rows) > 10
    trainer = trainer_of(loss_type="grpo", importance_sampling_level="sequence")
    assert_same(*both(rows, trainer, "sequence", "turn"))
