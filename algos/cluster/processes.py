"""Starting one process or several: found out, checked and said, for launchers fall back to less without a word."""

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
        model: Its ``dtype`` is the arithmetic's.
        optim: Its ``max_grad_norm`` is what gradients are scaled down to; DeepSpeed does it itself.

    Raises:
        ConfigError: What the launcher was asked for is not what this machine gives.
    """
    check_launch(model, optim)
    on_cpu, deepspeed = not torch.cuda.is_available(), _asked_for("DEEPSPEED")
    if on_cpu:
        keep_freed_memory()
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # imported wherever it is installed, it warns
    accelerator = Accelerator(
        mixed_precision=PRECISION[model.dtype],
        log_with=trackers or None,
        project_dir=project_dir,
        cpu=on_cpu and not deepspeed,  # Accelerate starts DeepSpeed only without it
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if on_cpu and deepspeed else [],
    )
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != expected or (
        deepspeed and accelerator.distributed_type != DistributedType.DEEPSPEED
    ):
        raise ConfigError(
            f"the launcher started {expected} process(es), but they came together as: {describe(accelerator)}"
        )
    if deepspeed:
        from transformers.integrations import unset_hf_deepspeed_config

        plugin: Any = accelerator.deepspeed_plugin
        plugin.zero3_init_flag = False
        unset_hf_deepspeed_config()  # models load whole, and are sharded once adapters and critic are on them
        # The batches are cut by the trainer, their gradients added up by weight: DeepSpeed shall divide by nothing.
        plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": optim.max_grad_norm}
    if accelerator.num_processes > 1 or deepspeed:
        accelerator.print(describe(accelerator))
    return accelerator


def keep_freed_memory() -> None:
    """Has glibc keep what tensors free: given back, every page of the next one has to be cleared by the kernel anew."""
    with contextlib.suppress(OSError, AttributeError):  # another C library, which manages memory in its own way
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


def check_launch(model: ModelSection, optim: OptimSection) -> None:
    """Refuses what a launcher's variables ask for in vain.

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
    """One line on how many processes there are, and how they share the work."""
    kind = accelerator.distributed_type
    how = {DistributedType.NO: "alone", DistributedType.FSDP: "FSDP2"}.get(kind, "DistributedDataParallel")
    if kind == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.deepspeed_plugin
        how = f"DeepSpeed ZeRO-{plugin.zero_stage}"
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else "no backend"
    return f"{accelerator.num_processes} process(es), {how}, {backend}, {accelerator.device.type}"


def end(status: int) -> None:
    """Ends this process if it is one of several that met over gloo; else does nothing.

    At once, after what is due at exit: gloo's threads let go of their last tensors some time after a call returned, and
    one that does so while the interpreter is being taken down aborts the process.
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
    """A line on what differs where a run goes on in another way than the one it was saved in; else nothing."""
    if saved_by == describe(accelerator):
        return ""
    return (
        f"saved by {saved_by}: weights, optimizer and starts go on as they were; each process samples with a generator "
        "of its own, so the numbers will not be those of an unbroken run\n"
    )
