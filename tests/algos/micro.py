"""A causal model of 20,000 parameters and rows to train it on, for tests that compare gradients in float64."""

from __future__ import annotations

import random
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from algos import grpo
from algos.config.schema import TrainConfig
from algos.data.episodes import Turn
from algos.data.rows import Row, to_rows
from algos.model.forward import Policy
from algos.training.trainer import Trainer

VOCABULARY = 61


def micro_model(vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float64, seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights that differ enough to make every token matter.

    Its norms are torch's: those of transformers round to float32 on their way, whatever the model's type.
    """
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).to(dtype)
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm).__name__ == "Qwen3RMSNorm":
                setattr(parent, name, nn.RMSNorm(len(norm.weight), norm.variance_epsilon, dtype=dtype))
    return model


def some_ids(rng: random.Random, low: int, high: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(rng.randint(low, high))]


def some_rows(n: int = 7, seed: int = 0, common_prefix: bool = True) -> list[Row]:
    """Rows of unequal prompts and lengths, every third one merged from three turns, one prompt used three times."""
    return [row for turns in some_conversations(n, seed, common_prefix) for row in to_rows(turns)]


def some_conversations(n: int = 7, seed: int = 0, common_prefix: bool = True) -> list[list[Turn]]:
    """The turns of :func:`some_rows`, those of a row together."""
    rng = random.Random(seed)
    prefix = some_ids(rng, 5, 5) if common_prefix else []
    again = prefix + some_ids(rng, 4, 4)
    conversations: list[list[Turn]] = []
    for i in range(n):
        start = again if i in (1, 2, 5) else prefix + some_ids(rng, 1, 9)
        turns: list[Turn] = []
        for _ in range(3 if i % 3 == 0 else 1):
            if turns:
                start = turns[-1].prompt_ids + turns[-1].action_ids + some_ids(rng, 2, 6)
            ids = some_ids(rng, 1, 6)
            turns.append(Turn(start, ids, [rng.gauss(-4.0, 0.5) for _ in ids]))
        for turn in turns:
            turn.advantage = rng.gauss(0, 1)
        conversations.append(turns)
    return conversations


def plain_logprobs(model: Any, row: Row, temperature: float) -> torch.Tensor:
    """What an ordinary forward pass says of a row's action tokens: no padding, no cache, no sharing."""
    ids = torch.tensor([row.prompt_ids + row.ids])
    log_p = torch.log_softmax(model(ids).logits[0] / temperature, dim=-1)
    first = len(row.prompt_ids)
    return torch.stack([log_p[first + i - 1, token] for i, token in enumerate(row.ids) if row.action_mask[i]])


def micro_trainer(config: TrainConfig, accelerator: Accelerator, wrap: Any = Policy, reference: Any = None) -> Trainer:
    """A trainer of the micro model by plain gradient descent."""
    policy = wrap(micro_model(), config.rollout.temperature)
    optimizer = torch.optim.SGD(policy.parameters(), lr=config.optim.lr)
    return Trainer(config, accelerator, policy, optimizer, lambda model: reference)


def sections(algorithm: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """Settings, written ``section__key``, over those that make one update a step along the negated gradient."""
    made: dict[str, dict[str, Any]] = {
        algorithm: {},
        "optim": {"lr": 1.0, "max_grad_norm": 1e9},
        "rollout": {"max_new_tokens": 10},
    }
    for name, value in settings.items():
        section, _, key = name.partition("__")
        made.setdefault(section, {})[key] = value
    return made


def updated(
    rows: list[Row], accelerator: Accelerator, conversations: list[list[Turn]] | None = None, **settings: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The micro model's parameters after ``grpo.update`` with plain gradient descent, and the metrics.

    ``conversations`` are scored first and take the place of ``rows``. Settings are as for :func:`sections`. With one
    epoch and one minibatch the change is the gradient, negated.
    """
    config = grpo.GrpoConfig.model_validate(sections("grpo", **settings))
    reference = Policy(micro_model(seed=1), config.rollout.temperature) if config.grpo.kl_coef else None
    trainer = micro_trainer(config, accelerator, reference=reference)
    if conversations is not None:
        trainer.score_turns(conversations, tis_cap=config.grpo.tis_cap)
        rows = [row for turns in conversations for row in to_rows(turns)]
    metrics = grpo.update(config, rows, trainer, step=0)
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}, metrics
