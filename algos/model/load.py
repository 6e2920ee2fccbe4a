"""Loading the model and tokenizer that a configuration names: plain, with LoRA adapters, in 4 bits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from algos.config.schema import ModelSection
from algos.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"


def check_model(path: str) -> None:
    """Checks that a local path can be a model, before anything slow starts.

    Raises:
        ConfigError: It is not there, holds neither a model nor an adapter, or the adapter's base is not there.
    """
    folder = Path(path).expanduser()
    inside = path.count("/") == 1 and folder.parent.is_dir()  # runs/typo means a folder if runs/ is one
    looks_local = path.startswith((".", "/", "~")) or folder.exists() or inside
    if path == "tiny" or (not looks_local and path.count("/") == 1):
        return
    if not looks_local and not folder.exists():
        raise ConfigError(f"model.path: {path!r} is not a folder, a Hugging Face id (owner/name) or `tiny`")
    if not folder.is_dir():
        raise ConfigError(f"model.path: there is no folder {path}")
    if adapter := adapter_config(folder):
        base = Path(adapter["base_model_name_or_path"])
        if base.is_absolute() and not (base / "config.json").exists():
            raise ConfigError(f"model.path: the adapter in {path} belongs to {base}, where there is no model")
    elif not (folder / "config.json").exists():
        raise ConfigError(f"model.path: {path} holds no model (no config.json)")


def check_settings(model: ModelSection) -> None:
    """Checks the settings of the model before it loads.

    Raises:
        ConfigError: The model is not there, two settings exclude each other, or a package is missing.
    """
    check_model(model.path)
    adapter = adapter_config(Path(model.path).expanduser())
    if adapter and model.lora_rank not in (0, adapter["r"]):
        raise ConfigError(f"model.lora_rank {model.lora_rank}: the adapter in {model.path} has rank {adapter['r']}")
    if model.quantize and not (model.lora_rank or adapter):
        raise ConfigError(f"model.quantize {model.quantize}: weights in 4 bits cannot be trained; set model.lora_rank")
    if model.quantize and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f'model.quantize {model.quantize} needs bitsandbytes: pip install "llm-gym[quantize]"')
    if model.attention == "flash_attention_2":
        if model.dtype == "float32":
            raise ConfigError("model.attention flash_attention_2 needs model.dtype bfloat16 or float16")
        if importlib.util.find_spec("flash_attn") is None or not torch.cuda.is_available():
            raise ConfigError("model.attention flash_attention_2 needs a CUDA GPU and pip install flash-attn; or sdpa")


def load_model(path: str | Path, settings: ModelSection | None = None, trainable: bool = True) -> tuple[Any, Any]:
    """The causal language model, in eval mode, and its tokenizer.

    Trained weights are float32. The frozen base of adapters is kept in ``settings.dtype``, or in NF4.

    Args:
        path: A Hugging Face folder or id, or a folder with an adapter, which is loaded on its base.
        settings: All except ``path`` are used. None: plain float32.
        trainable: Train the adapter, or all weights if there is none. False: train nothing and add no adapter.

    Raises:
        ConfigError: Neither a folder nor the Hugging Face hub has it, it cannot hold a conversation, or it has no such
            layers as ``lora_targets`` names.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings = settings or ModelSection()
    folder = Path(path).expanduser()
    adapter = adapter_config(folder)
    # Adapters record the path of their base; a relative path would be valid in one working directory only.
    base = adapter["base_model_name_or_path"] if adapter else str(folder.resolve() if folder.is_dir() else path)
    frozen = bool(adapter or settings.lora_rank)
    options: dict[str, Any] = {"dtype": getattr(torch, settings.dtype) if frozen else torch.float32}
    if settings.attention:
        options["attn_implementation"] = settings.attention
    if settings.quantize:
        options["quantization_config"] = _four_bits(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder if (folder / "tokenizer_config.json").exists() else base)
        model = AutoModelForCausalLM.from_pretrained(base, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model.path {path}: {str(error).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise ConfigError(f"model.path {path}: its tokenizer has no chat template; use an instruction-tuned model")
    if settings.quantize:
        _keep_differentiable(model)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    elif settings.lora_rank and trainable:
        model = _with_adapters(model, settings)
    if settings.gradient_checkpointing and trainable:
        # transformers renamed it; if both names exist, the older one warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model.requires_grad_(False).eval() if not trainable else model.eval(), tokenizer


def adapter_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of the PEFT adapter in ``folder``; None: there is none."""
    file = folder / ADAPTER_CONFIG
    return dict(json.loads(file.read_text())) if file.exists() else None


def _with_adapters(model: Any, settings: ModelSection) -> Any:
    """The frozen model with new LoRA adapters (arXiv 2106.09685) in float32, which start at zero effect."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=settings.lora_targets,
    )
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)  # every process must start with the same adapters
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(f"model.lora_targets: {str(error).splitlines()[0]}") from None
    finally:
        torch.set_rng_state(state)


def _four_bits(settings: ModelSection) -> Any:
    """NF4 with double quantisation (QLoRA, arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )


def _keep_differentiable(model: Any) -> None:
    """Prevents bitsandbytes from packing 4-bit weights for a CPU's bfloat16 kernel at the first sampling.

    A packed weight stays packed. That kernel has no backward pass, so the gradient of the layers below would be wrong.
    It also rounds to bfloat16, so the policy that samples would differ from the policy that is trained.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
