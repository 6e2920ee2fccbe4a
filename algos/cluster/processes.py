"""Starts one process or several and checks what was started: launchers fall back to fewer processes silently."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from algos.cluster.offline import is_true
from algos.config.schema import ModelSection, OptimSection
from algos.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def start(model: ModelSection, optim: OptimSection, trackers: list[Any], project_dir: Path) -> Accelerator:
    """The accelerator of this run: DistributedDataParallel, DeepSpeed or FSDP2, as the launcher's variables say.

    Without a GPU, processes meet over gloo.

    Args:
        model: Its ``dtype`` is the precision of the arithmetic.
        optim: DeepSpeed clips gradients itself, at ``max_grad_norm``.

    Raises:
        ConfigError: This machine cannot run what the launcher was asked for.
    """
    check_launch(model, optim)
    on_cpu, deepspeed = not torch.cuda.is_available(), _asked_for("DEEPSPEED")
    if on_cpu:
        keep_freed_memory()
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns, wherever it is installed
    accelerator = Accelerator(
        mixed_precision=PRECISION[model.dtype],
        log_with=trackers or None,
        project_dir=project_dir,
        cpu=on_cpu and not deepspeed,  # Accelerate starts DeepSpeed only without it
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if on_cpu and deepspeed else [],
    )
    expected = int(os.environ.get("WORLD_SIZE", 1))
    without_deepspeed = deepspeed and accelerator.distributed_type != DistributedType.DEEPSPEED
    if accelerator.num_processes != expected or without_deepspeed:
        raise ConfigError(f"the launcher started {expected} process(es), but they formed: {describe(accelerator)}")
    if deepspeed:
        from transformers.integrations import unset_hf_deepspeed_config

        plugin: Any = accelerator.deepspeed_plugin
        plugin.zero3_init_flag = False
        unset_hf_deepspeed_config()  # models load whole, and are sharded once they have adapters and critic
        # The trainer cuts the batches and weighs their gradients: DeepSpeed must not divide them by anything.
        plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": optim.max_grad_norm}
    if accelerator.num_processes > 1 or deepspeed:
        accelerator.print(describe(accelerator))
    return accelerator


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that tensors free; the kernel would have to clear every page of the next tensor."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


def check_launch(model: ModelSection, optim: OptimSection) -> None:
    """Refuses what a launcher's variables ask for but this machine or these settings cannot do.

    Raises:
        ConfigError: See the messages.
    """
    on_cpu = not torch.cuda.is_available()
    sharded = _asked_for("FSDP") or _asked_for("DEEPSPEED")
    launched_alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "LOCAL_RANK" not in os.environ
    if launched_alone and "MASTER_PORT" in os.environ:
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does without GPUs; "
            "add --multi_gpu (the processes then meet over gloo) or --config_file configs/accelerate/cpu_2.yaml"
        )
    if sharded and "LOCAL_RANK" not in os.environ:
        raise ConfigError("DeepSpeed and FSDP need a launcher: accelerate launch, torchrun or srun")
    if on_cpu and _asked_for("FSDP"):
        raise ConfigError("FSDP needs GPUs; without them use configs/accelerate/cpu_2.yaml or DeepSpeed's zero2.yaml")
    if on_cpu and model.dtype == "float16":
        raise ConfigError("model.dtype float16 needs a GPU: its loss scaling is for CUDA; use float32 or bfloat16")
    if sharded and model.quantize:
        raise ConfigError("model.quantize: 4-bit weights are not sharded; start it without DeepSpeed and FSDP")
    if sharded and optim.name == "muon":
        raise ConfigError("optim.name muon needs matrices whole; start it without DeepSpeed and FSDP, or name adamw")


def describe(accelerator: Accelerator) -> str:
    """One line: the number of processes, and how they share the work."""
    kind = accelerator.distributed_type
    how = {DistributedType.NO: "alone", DistributedType.FSDP: "FSDP2"}.get(kind, "DistributedDataParallel")
    if kind == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.deepspeed_plugin
        how = f"DeepSpeed ZeRO-{plugin.zero_stage}"
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else "no backend"
    return f"{accelerator.num_processes} process(es), {how}, {backend}, {accelerator.device.type}"


def end(status: int) -> None:
    """Ends this process at once if it is one of several connected over gloo; else does nothing.

    Functions registered with ``atexit`` still run. gloo's threads release their last tensors some time after a call
    returned, and a release while the interpreter shuts down aborts the process.
    """
    met = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    if met and torch.distributed.get_backend() == "gloo":
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _asked_for(what: str) -> bool:
    return is_true(os.environ.get(f"ACCELERATE_USE_{what}", ""))


def changed(saved_by: str, accelerator: Accelerator) -> str:
    """A line on what differs if a run resumes on other processes than those that saved it; else an empty string."""
    if saved_by == describe(accelerator):
        return ""
    return (
        f"saved by {saved_by}: weights, optimizer and starts are restored; each process samples with its own random "
        "generator, so the numbers will differ from those of an uninterrupted run\n"
    )
