"""The engines that sample replies: choosing one, and what the two on vLLM share."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any
from urllib.parse import urlsplit

import torch

from algos.config.schema import Config
from algos.engines.base import Engine
from algos.engines.hf import HFEngine
from algos.engines.vllm_common import check_adapter, vllm_installed
from algos.errors import ConfigError
from algos.model.chat import Chat


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
        from algos.engines.vllm_server import check_server

        check_server(config)
    elif int(os.environ.get("RANK", 0)) == 0:
        with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port or 8000), timeout=2):
            raise ConfigError(f"engine.start: something listens on {engine.url} already; choose another engine.url")


def make_engine(config: Config, model: Any, chat: Chat, accelerator: Any, max_length: int) -> Engine:
    """The engine that the configuration names. Every process calls it.

    Args:
        model: The trained causal language model, plain or with LoRA adapters; its weights go to vLLM at each ``sync``.
        max_length: Tokens of the longest prompt and reply together.

    Raises:
        ConfigError: vLLM cannot take this model's adapters, or does not start.
    """
    if config.engine.kind == "hf":
        return HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    check_adapter(model)
    if config.engine.kind == "vllm_server":
        from algos.engines.vllm_server import VLLMServer

        return VLLMServer(config, model, chat, accelerator, max_length)
    from algos.engines.vllm_colocate import VLLMColocate

    return VLLMColocate(config, model, chat, accelerator, max_length)
