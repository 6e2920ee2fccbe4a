"""Loading the model and tokenizer that a configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from algos.run.config import ConfigError


def check_model(path: str) -> None:
    """Refuses a local folder that cannot be a model, before anything slow starts.

    Raises:
        ConfigError: It is not there, or holds no model.
    """
    folder = Path(path).expanduser()
    inside = path.count("/") == 1 and folder.parent.is_dir()  # runs/typo is meant as a folder where runs/ is one
    looks_local = path.startswith((".", "/", "~")) or folder.exists() or inside
    if path == "tiny" or (not looks_local and path.count("/") == 1):
        return
    if not looks_local and not folder.exists():
        raise ConfigError(f"model.path: {path!r} is no folder here, and no Hugging Face id (owner/name), nor `tiny`")
    if not folder.is_dir():
        raise ConfigError(f"model.path: there is no folder {path}")
    if not (folder / "config.json").exists():
        raise ConfigError(f"model.path: {path} holds no model (no config.json)")


def load_model(path: str | Path) -> tuple[Any, Any]:
    """The causal language model, in float32, and its tokenizer.

    Raises:
        ConfigError: Neither a folder nor the Hugging Face hub has it, or it cannot hold a conversation.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path {path}: {str(error).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise ConfigError(f"model.path {path}: its tokenizer has no chat template; use an instruction-tuned model")
    return model, tokenizer
