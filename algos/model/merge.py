"""A checkpoint as an ordinary Hugging Face folder, adapters merged into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from algos.config.schema import ModelSection
from algos.errors import ConfigError
from algos.model.load import adapter_config, check_settings, load_model


def merge(checkpoint: Path, out: Path, dtype: str | None = None, quantize: str | None = None) -> None:
    """Writes the model of ``checkpoint``, without adapters and without the trainer's state, to ``out``.

    Args:
        checkpoint: A folder that holds an adapter, or a whole model.
        dtype: Of the weights written. None: that of the base.
        quantize: ``nf4``: the adapter goes onto the base as it was trained on, quantised and back, rather than onto the
            original weights. None: what the ``config.yaml`` of the checkpoint's run says.

    Raises:
        ConfigError: There is no such checkpoint, or ``out`` is in the way.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} exists; name a new folder")
    adapter = adapter_config(checkpoint)
    settings = ModelSection.model_validate(
        {"path": str(checkpoint.absolute()), "quantize": (quantize or _trained_on(checkpoint)) if adapter else None}
    )
    check_settings(settings)
    if adapter and settings.quantize:
        model, tokenizer = _onto_quantised(checkpoint, adapter["base_model_name_or_path"], settings)
    else:
        model, tokenizer = load_model(checkpoint, trainable=False)
    if adapter:
        model = model.merge_and_unload(safe_merge=True)
    model.to(getattr(torch, dtype) if dtype else _stored_dtype(adapter, checkpoint))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _onto_quantised(checkpoint: Path, base: str, settings: ModelSection) -> tuple[Any, Any]:
    """The adapter on the base in float32 with the values that NF4 leaves of its weights."""
    from peft import PeftModel

    model, _ = load_model(base, settings, trainable=False)
    _, tokenizer = load_model(checkpoint, trainable=False)
    return PeftModel.from_pretrained(model.dequantize(torch.float32), str(checkpoint)), tokenizer


def _trained_on(checkpoint: Path) -> str | None:
    """``model.quantize`` of the run that ``checkpoint`` lies in; None where it lies in none."""
    file = checkpoint.absolute().parent.parent / "config.yaml"
    settings = yaml.safe_load(file.read_text()) if file.is_file() else {}
    return dict(settings.get("model", {})).get("quantize")


def _stored_dtype(adapter: dict[str, Any] | None, checkpoint: Path) -> torch.dtype:
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(adapter["base_model_name_or_path"] if adapter else checkpoint).dtype
    return stored or torch.float32
