"""Chooses the engine that samples replies, and checks its settings."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import httpx
import torch

from algos.rollout.chat import Chat
from algos.rollout.hf import HFEngine, Sample
from algos.run.config import Config, ConfigError


class EngineError(ConfigError):
    """The engine cannot continue; the message is one line that says why."""


class Engine(Protocol):
    """Whatever samples replies from the trained model.

    Attributes:
        version: Number of optimizer steps that the weights it samples from have had.
        model: The trained model.
        max_new_tokens: Maximum tokens per reply.
    """

    version: int
    model: Any
    max_new_tokens: int

    def sync(self, version: int) -> None:
        """Loads the trained weights, which have had ``version`` optimizer steps. Every process calls it."""
        ...

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """Samples one reply a prompt; see :meth:`algos.rollout.hf.HFEngine.generate`."""
        ...


def check_engine(config: Config) -> None:
    """Finds errors in the engine's settings before a model loads.

    Raises:
        ConfigError: vLLM is to run in this environment and is not installed, no server answers, the server lacks an
            option that training needs, or a setting cannot work with vLLM.
    """
    from algos.rollout.vllm_common import vllm_installed
    from algos.rollout.vllm_process import check_server

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
            f"engine.kind {engine.kind}: vLLM's CPU kernels do not support attention heads as narrow as the embedded "
            "model's; use hf, or another model.path"
        )
    if engine.kind == "vllm_colocate":
        return
    try:
        url = httpx.URL(engine.url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"engine.url: must be like http://host:8000 (got {engine.url!r})")
    if not engine.start:
        check_server(config)
    elif int(os.environ.get("RANK", 0)) == 0:
        with contextlib.suppress(OSError), socket.create_connection((url.host, url.port or 80), timeout=2):
            raise ConfigError(f"engine.start: something listens on {engine.url} already; choose another engine.url")


def make_engine(config: Config, model: Any, chat: Chat, accelerator: Any, max_length: int) -> Engine:
    """The engine that the configuration names. Every process calls it.

    Args:
        model: The trained causal language model, plain or with LoRA adapters; its weights go to vLLM at each ``sync``.
        max_length: Tokens of the longest prompt and reply together.

    Raises:
        ConfigError: vLLM cannot take this model's adapters, or does not start.
    """
    from algos.rollout.vllm_colocate import VLLMColocate
    from algos.rollout.vllm_common import check_adapter
    from algos.rollout.vllm_server import VLLMServer

    if config.engine.kind == "hf":
        return HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    check_adapter(model)
    engine = VLLMServer if config.engine.kind == "vllm_server" else VLLMColocate
    return engine(config, model, chat, accelerator, max_length)
