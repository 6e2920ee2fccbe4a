"""Estimates the memory that a configuration needs from the model's config.json alone: no weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from algos.cluster.offline import go_offline
from algos.config.schema import Config, ModelSection, OptimSection
from algos.errors import ConfigError
from algos.maths.logprobs import CHUNK

GIB = 2**30
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # a scale of 8 bits for 64 weights, one of 32 for 256 scales
CONCURRENT = 1024
"""Number of prompts that the engine `hf` samples together."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; shared parameters count once.

    Attributes:
        linear: Parameters of the linear layers but the output layer: those that are quantized to 4 bits.
        adapters: Parameters of LoRA adapters; 0 without.
        layer_elements: Activations per token that one layer keeps for the backward pass.
    """

    parameters: int
    linear: int
    adapters: int
    layers: int
    hidden: int
    key_value: int
    vocabulary: int
    layer_elements: int


def shape_of(config: Any, settings: ModelSection) -> Shape:
    """Counts on a model without storage, made from a transformers configuration."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    targets = {settings.lora_targets} if isinstance(settings.lora_targets, str) else set(settings.lora_targets)
    adapted = [m for name, m in linears.items() if {"all-linear", name.rpartition(".")[2]} & targets]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, key_value = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(m.weight.numel() for m in linears.values()),
        adapters=settings.lora_rank * sum(m.in_features + m.out_features for m in adapted),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        key_value=key_value,
        vocabulary=config.vocab_size,
        # Two norms (each keeps its input also in fp32) and the inputs of four projections; queries, keys and values
        # before and after rotation, the attention's output; gate, up, silu(gate) and their product.
        layer_elements=8 * config.hidden_size + 3 * queries + 4 * key_value + 4 * config.intermediate_size,
    )


def estimate(shape: Shape, config: Config, optim: OptimSection, processes: int = 1, zero: int = 0) -> dict[str, float]:
    """Bytes on each process, by part; the parts of rollout and update are not in memory at the same time.

    Args:
        processes: The number of processes that share the episodes and, under ZeRO, the states.
        zero: DeepSpeed's ZeRO stage (arXiv 1910.02054); 0: DistributedDataParallel.
    """
    model, rollout = config.model, config.rollout
    width = 4 if model.dtype == "float32" else 2
    trained = shape.adapters or shape.parameters
    frozen = shape.parameters if shape.adapters else 0
    in_four_bits = shape.linear if model.quantize else 0
    weights = in_four_bits * NF4_BYTES + (frozen - in_four_bits if frozen else 0) * width
    # Bytes of each trained parameter. ZeRO's fp32 optimizer holds weights and two moments. Without ZeRO the weights are
    # fp32, with a copy for autocast, and DistributedDataParallel has buckets beside the gradients.
    each = (width, width, 12) if zero else (4 + (2 if width == 2 else 0), 4 if processes == 1 else 8, 8)
    shares = [processes if zero >= stage else 1 for stage in (3, 2, 1)]
    held = [trained * size / share for size, share in zip(each, shares)]
    parts = {"weights": weights + held[0], "gradients": held[1], "optimizer": held[2]}
    length = rollout.max_prompt_tokens + rollout.max_new_tokens
    rows = min(CONCURRENT, -(-rollout.episodes // processes)) if config.engine.kind == "hf" else 0  # vLLM has its own
    cache = 2 * shape.layers * shape.key_value * width * length * rows
    gathered = trained * width if zero == 3 else 0
    tokens = optim.micro_batch * length
    kept = tokens * shape.layers * shape.layer_elements * width
    if model.gradient_checkpointing:
        kept = tokens * (shape.layers * shape.hidden + shape.layer_elements) * width
    sampled = optim.micro_batch * rollout.max_new_tokens
    logits = 3 * 4 * (sampled if zero == 3 else min(CHUNK, sampled)) * shape.vocabulary
    return parts | {"rollout: key-value cache": cache + gathered, "update: activations": kept + logits}


def peak(parts: dict[str, float]) -> float:
    """Bytes during rollout or update, whichever needs more."""
    return sum(parts.values()) - min(parts["rollout: key-value cache"], parts["update: activations"])


def read_config(path: str) -> Any:
    """The transformers configuration of a folder or hub id; of the hub only config.json is fetched.

    Raises:
        ConfigError: It does not exist, or there is no network to fetch it from.
    """
    from transformers import AutoConfig

    folder = Path(path).expanduser()
    source, reason = (folder, None) if folder.is_dir() else (path, go_offline(ask=True))
    try:
        return AutoConfig.from_pretrained(source, local_files_only=bool(reason))
    except (OSError, ValueError) as error:
        why = f"offline ({reason}); fill the cache with `llm-gym fetch {path}` where there is a network"
        raise ConfigError(f"--model {path}: {why if reason else str(error).splitlines()[0]}") from None
