"""The engines that sample replies: choosing one, and what the two on vLLM share."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from algos.model.forward import causal_lm
from algos.rollout.chat import Chat
from algos.rollout.hf import HFEngine, Sample
from algos.run.config import Config, ConfigError


class EngineError(ConfigError):
    """The engine cannot go on; the message is one line that says why."""


class Engine(Protocol):
    """Whatever samples replies from the trained model.

    Attributes:
        version: Number of optimizer steps that the weights it samples from have had.
        model: The trained model.
        max_new_tokens: A reply is cut after so many.
    """

    version: int
    model: Any
    max_new_tokens: int

    def sync(self, version: int) -> None:
        """Takes over the trained weights, which have had ``version`` optimizer steps. Every process calls it."""
        ...

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """Samples one reply a prompt; see :meth:`algos.rollout.hf.HFEngine.generate`."""
        ...


def check_engine(config: Config) -> None:
    """Everything about the engine that can be known to be wrong before a model loads.

    Raises:
        ConfigError: vLLM is not installed where we are to run it, no server answers, it was started without what
            training needs, or a setting cannot work with vLLM.
    """
    engine = config.engine
    if engine.kind == "hf":
        return
    if config.model.quantize:
        raise ConfigError(f"engine.kind {engine.kind}: vLLM would not sample from weights in 4 bits; use hf")
    here = engine.kind == "vllm_colocate" or engine.start
    if here and not vllm_installed():
        raise ConfigError(f'engine.kind {engine.kind} needs vLLM in this environment: pip install "llm-gym[vllm]"')
    if here and config.model.path == "tiny" and not torch.cuda.is_available():
        raise ConfigError(
            f"engine.kind {engine.kind}: vLLM's CPU kernels take no attention heads as narrow as the embedded model's; "
            "use hf, or another model.path"
        )
    if engine.kind == "vllm_colocate":
        return
    url = urlsplit(engine.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"engine.url: must be like http://host:8000 (got {engine.url!r})")
    if not engine.start:
        from algos.rollout.vllm_server import check_server

        check_server(config)
    elif int(os.environ.get("RANK", 0)) == 0:
        with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port or 8000), timeout=2):
            raise ConfigError(f"engine.start: something listens on {engine.url} already; choose another engine.url")


def vllm_installed() -> bool:
    spec = importlib.util.find_spec("vllm")
    return spec is not None and spec.origin is not None  # a folder that happens to be called vllm has no origin


def make_engine(config: Config, model: Any, chat: Chat, accelerator: Any) -> Engine:
    """The engine that the configuration names. Every process calls it.

    Args:
        model: The trained causal language model, plain or with LoRA adapters; its weights go to vLLM at each ``sync``.

    Raises:
        ConfigError: vLLM cannot take this model's adapters, or does not start.
    """
    if config.engine.kind == "hf":
        return HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    check_adapter(model)
    if config.engine.kind == "vllm_server":
        from algos.rollout.vllm_server import VLLMServer

        return VLLMServer(config, model, chat, accelerator)
    from algos.rollout.vllm_colocate import VLLMColocate

    return VLLMColocate(config, model, chat, accelerator)


def adapter_of(model: Any) -> Any | None:
    """The settings of the model's PEFT adapter; None: all weights are trained."""
    return model.peft_config["default"] if hasattr(model, "peft_config") else None


def check_adapter(model: Any) -> None:
    """Refuses an adapter that vLLM would serve as something else than it is."""
    adapter = adapter_of(model)
    if adapter is None:
        return
    extras = ("modules_to_save", "use_dora", "trainable_token_indices", "layer_replication")
    used = [name for name in extras if getattr(adapter, name, None)] + ["bias"] * (adapter.bias != "none")
    if adapter.peft_type != "LORA" or used:
        what = adapter.peft_type if adapter.peft_type != "LORA" else f"LoRA with {', '.join(used)}"
        raise ConfigError(f"model.path: vLLM serves plain LoRA adapters, not {what}; use engine.kind hf")


def adapter_rank(model: Any) -> int | None:
    """The smallest rank that vLLM can be told to make room for; None: there is no adapter."""
    adapter = adapter_of(model)
    if adapter is None:
        return None
    wanted = max([adapter.r, *(adapter.rank_pattern or {}).values()])
    return next((rank for rank in (8, 16, 32, 64, 128, 256, 320, 512) if rank >= wanted), wanted)


def weights_of(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The model's weights as copies in ``dtype``, named as in its checkpoints, one in memory at a time.

    Sharded ones (ZeRO-3, FSDP) are gathered from all processes, so every process must iterate to the end.
    """
    for name, parameter in causal_lm(model).named_parameters():
        with _whole(parameter) as weight:
            copy = weight.detach().to(dtype, copy=True)
        yield name, copy


def save_adapter(model: Any, folder: Path, write: bool) -> None:
    """Saves the adapter as PEFT does. Every process calls it; the one that is to ``write`` writes."""
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
    """A seed for each of ``n`` requests: the same replies whatever their order, and when one is asked for again."""
    return torch.randint(2**31, (n,), generator=generator, device=generator.device).tolist()


CANARY = [{"role": "user", "content": "Which move do you make? Answer with one."}]
"""What both sides are asked after each sync. What it says matters little: any change of weights changes the answers."""
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
    """Refuses to go on with an engine that does not hold the trainer's weights.

    Raises:
        EngineError: ``found``, from :func:`difference`, is more than ``engine.tolerance``.
    """
    if not found <= config.engine.tolerance:
        raise EngineError(
            f"engine.tolerance {config.engine.tolerance}: after the sync to version {version}, vLLM and the "
            f"trainer differ by {found:.3g} nats a token on the same prompt; do both run {config.model.dtype}?"
        )


def longest(config: Config) -> int:
    """Tokens of the longest prompt and reply that training or an evaluation may ask for."""
    from algos.run.evaluate import evaluations

    limits = [config.rollout, *(evaluation.rollout for evaluation in evaluations(config))]
    return max(limit.max_prompt_tokens + limit.max_new_tokens for limit in limits)


CPU_BATCHED_TOKENS = 8192
"""On a CPU vLLM computes so many prompt tokens at a time, and no prompt in parts: vLLM 0.30 would die of a request
with a seed and a prompt in parts (its worker winds the generator back by an offset, which a CPU's has not)."""


def base_path(model: Any) -> str:
    """Where the model (under its adapters) was loaded from: what vLLM loads before the first sync."""
    path = str(causal_lm(model).config.name_or_path)
    if not path:
        raise ConfigError("engine: vLLM loads a model from a folder or the Hugging Face hub; this one has no path")
    return path
