"""Functions that the two engines on vLLM share."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algos.model.forward import causal_lm
from algos.rollout.chat import Chat
from algos.rollout.engine import EngineError
from algos.rollout.hf import Sample
from algos.run.config import Config, ConfigError

WORKER_EXTENSION = f"{__package__}.vllm_worker.Extension"
"""The class that vLLM imports in each of its workers; its module registers the weight transfer ``BACKEND``."""
BACKEND = "llm_gym"
LOGPROBS_MODE = "processed_logprobs"
"""vLLM reports log-probabilities at the temperature that it sampled at."""


def vllm_installed() -> bool:
    """Whether ``import vllm`` would find the package."""
    spec = importlib.util.find_spec("vllm")
    return spec is not None and spec.origin is not None  # a folder that happens to be called vllm has no origin


def adapter_of(model: Any) -> Any | None:
    """The settings of the model's PEFT adapter; None: all weights are trained."""
    return model.peft_config["default"] if hasattr(model, "peft_config") else None


def check_adapter(model: Any) -> None:
    """Refuses an adapter that vLLM would not apply as PEFT does."""
    adapter = adapter_of(model)
    if adapter is None:
        return
    extras = ("modules_to_save", "use_dora", "trainable_token_indices", "layer_replication")
    used = [name for name in extras if getattr(adapter, name, None)] + ["bias"] * (adapter.bias != "none")
    if adapter.peft_type != "LORA" or used:
        what = adapter.peft_type if adapter.peft_type != "LORA" else f"LoRA with {', '.join(used)}"
        raise ConfigError(f"model.path: vLLM serves plain LoRA adapters, not {what}; use engine.kind hf")


def adapter_rank(model: Any) -> int | None:
    """The smallest maximum rank that vLLM accepts for the model's adapter; None: there is no adapter."""
    adapter = adapter_of(model)
    if adapter is None:
        return None
    wanted = max([adapter.r, *(adapter.rank_pattern or {}).values()])
    return next((rank for rank in (8, 16, 32, 64, 128, 256, 320, 512) if rank >= wanted), wanted)


def weights_of(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The model's weights as copies in ``dtype``, named as in its checkpoints, one in memory at a time.

    Sharded weights (ZeRO-3, FSDP) are gathered from all processes, so every process must iterate to the end.
    """
    for name, parameter in causal_lm(model).named_parameters():
        with _whole(parameter) as weight:
            copy = weight.detach().to(dtype, copy=True)
        yield name, copy


def save_adapter(model: Any, folder: Path, write: bool) -> None:
    """Saves the adapter as PEFT does. Every process calls it; only those with ``write`` write files."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with _whole(parameter) as weight:
                state[name] = weight.detach().cpu().clone()
    if write:
        folder.mkdir(parents=True)
        save_file(get_peft_model_state_dict(model, state), folder / "adapter_model.safetensors")
        model.peft_config["default"].save_pretrained(str(folder))


@contextlib.contextmanager
def _whole(parameter: Any) -> Iterator[Tensor]:
    if hasattr(parameter, "full_tensor"):
        yield parameter.full_tensor()
    elif hasattr(parameter, "ds_id"):
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter]):
            yield parameter
    else:
        yield parameter


def request_seeds(n: int, generator: torch.Generator) -> list[int]:
    """A seed for each of ``n`` requests, so that the order of requests, and repeating one, do not change replies."""
    return torch.randint(2**31, (n,), generator=generator, device=generator.device).tolist()


CANARY = [{"role": "user", "content": "Which move do you make? Answer with one."}]
"""The prompt sent after each sync. Its words matter little: any change of weights changes the log-probabilities."""
CANARY_SAMPLES = 8


def canary_prompts(chat: Chat) -> list[list[int]]:
    return [chat.first(CANARY)] * CANARY_SAMPLES


@torch.no_grad()
def difference(model: Any, prompts: Sequence[list[int]], samples: Sequence[Sample], temperature: float) -> float:
    """Mean absolute difference between log-probabilities as sampled and the model's own, in nats a token."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total, tokens = 0.0, 0
    for prompt, sample in zip(prompts, samples, strict=True):
        logits = model(input_ids=torch.tensor([prompt + sample.ids], device=device)).logits[0, len(prompt) - 1 : -1]
        log_p = torch.log_softmax(logits.double() / temperature, dim=-1)
        own = log_p.gather(-1, torch.tensor(sample.ids, device=device)[:, None])[:, 0]
        total += float((own - torch.tensor(sample.logprobs, dtype=own.dtype, device=device)).abs().sum())
        tokens += len(sample.ids)
    model.train(training)
    return total / tokens


def check_agreement(found: float, config: Config, version: int) -> None:
    """Refuses to continue with an engine that does not hold the trainer's weights.

    Raises:
        EngineError: ``found``, from :func:`difference`, is more than ``engine.tolerance``.
    """
    if not found <= config.engine.tolerance:
        raise EngineError(
            f"engine.tolerance {config.engine.tolerance}: after the sync to version {version}, vLLM and the "
            f"trainer differ by {found:.3g} nats a token on the same prompt; do both run {config.model.dtype}?"
        )


CPU_BATCHED_TOKENS = 8192
"""Prompt tokens per batch on a CPU, where prompts must not be split: vLLM 0.30 crashes there on a request that has a
seed and a split prompt, because its worker resets the generator by an offset, which CPU generators do not have."""


def vllm_options(config: Config, model: Any, max_length: int) -> dict[str, Any]:
    """Arguments of ``vllm.LLM`` that both engines set; the server's options have the same names, with dashes."""
    options = {
        "model": base_path(model),
        "dtype": config.model.dtype,
        "max_model_len": max_length,
        "seed": config.run.seed,
        "generation_config": "vllm",
        "logprobs_mode": LOGPROBS_MODE,
    }
    if not torch.cuda.is_available():
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_length, CPU_BATCHED_TOKENS)}
    if rank := adapter_rank(model):
        return options | {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
    return options | {"worker_extension_cls": WORKER_EXTENSION, "weight_transfer_config": {"backend": BACKEND}}


def base_path(model: Any) -> str:
    """Where the model (without its adapters) was loaded from: what vLLM loads before the first sync."""
    path = str(causal_lm(model).config.name_or_path)
    if not path:
        raise ConfigError("engine: vLLM loads a model from a folder or the Hugging Face hub; this one has no path")
    return path
