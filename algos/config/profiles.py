"""Hardware profiles: detects this machine, and reads the settings in `configs/profiles` that suit it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from algos.config.recipes import configs_folder
from algos.errors import ConfigError

SUPERCLOUD = ("supercloud", "gridsan")


def supercloud() -> bool:
    """Whether the host's name, the home or the working directory names MIT Supercloud."""
    places = [socket.gethostname(), str(Path.home())]
    with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
        places.append(os.getcwd())
    return any(mark in place.lower() for mark in SUPERCLOUD for place in places)


FOLDER = configs_folder() / "profiles"
SIZED_FOR_GIB = {"v100": 32, "a100": 80, "h100": 80, "h200": 141}
"""The memory that each profile's `optim.micro_batch` is meant for."""
NAMES = ("auto", "cpu", *SIZED_FOR_GIB)
BF16_SINCE = 8  # CUDA compute capability of Ampere; earlier GPUs only emulate bf16


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    gib: float
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """The hardware of a machine, and as ``place`` the cloud or cluster and the SLURM job."""

    gpus: tuple[Gpu, ...] = ()
    cores: int = 1
    ram_gib: float = 0.0
    place: tuple[str, ...] = ()

    @property
    def weakest(self) -> Gpu | None:
        """The GPU with the least memory, which limits all."""
        return min(self.gpus, key=lambda gpu: (gpu.bf16, gpu.gib), default=None)

    def describe(self) -> str:
        gpus = [f"{gpu.name}, {gpu.gib:.0f} GiB, {'bf16' if gpu.bf16 else 'no bf16'}" for gpu in self.gpus]
        counted = [f"{gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(gpus)] or ["no CUDA GPU"]
        return "; ".join([*counted, f"{self.cores} cores, {self.ram_gib:.0f} GiB of memory", *self.place])


def detect() -> Machine:
    """This machine: its GPUs, processors and memory, and the cluster it belongs to."""
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = tuple(Gpu(gpu.name, gpu.total_memory / 2**30, gpu.major >= BF16_SINCE) for gpu in found)
    place = ["MIT Supercloud"] if supercloud() else []
    if "lambda" in socket.gethostname().lower() or any(Path("/etc/apt/sources.list.d").glob("lambda*")):
        place.append("Lambda")
    if job := os.environ.get("SLURM_JOB_ID"):
        place.append(f"SLURM job {job} on {os.environ.get('SLURM_JOB_NUM_NODES', '1')} node(s)")
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(gpus, len(os.sched_getaffinity(0)), ram, tuple(place))


def choose(machine: Machine) -> tuple[str, str]:
    """The profile for a machine and the reason: by the name of its weakest GPU, else by what that GPU can do."""
    gpu = machine.weakest
    if gpu is None:
        return "cpu", "there is no CUDA GPU"
    for name in SIZED_FOR_GIB:
        if re.search(rf"\b{name}\b", gpu.name, re.IGNORECASE):
            return name, f"the GPU is {gpu.name}"
    if not gpu.bf16:
        return "v100", f"{gpu.name} has no bf16"
    large = gpu.gib > 0.85 * SIZED_FOR_GIB["h200"]
    return "h200" if large else "a100", f"{gpu.name} has bf16 and {gpu.gib:.0f} GiB"


def settings(name: str, machine: Machine | None = None) -> list[tuple[str, Any, str]]:
    """The settings of a profile as (``section.key``, value, source).

    Flash Attention is left out if it is not installed. `optim.micro_batch`, which never changes the gradient, is halved
    until it suits the memory of this machine's GPUs.

    Args:
        name: One of :data:`NAMES`.
        machine: The default is this machine.

    Raises:
        ConfigError: There is no such profile.
    """
    if name not in NAMES:
        raise ConfigError(f"--profile {name}: known are {', '.join(NAMES)}")
    machine = machine or detect()
    source = f"profile {name}"
    if name == "auto":
        name, reason = choose(machine)
        source = f"profile {name} ({reason})"
    sections = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    flat = [(f"{section}.{key}", value, source) for section, part in sections.items() for key, value in part.items()]
    missing = "flash_attention_2" if importlib.util.find_spec("flash_attn") is None else ""
    return [_fitted(name, machine, *setting) for setting in flat if setting[1] != missing]


def _fitted(name: str, machine: Machine, key: str, value: Any, source: str) -> tuple[str, Any, str]:
    gpu, sized = machine.weakest, float(SIZED_FOR_GIB.get(name, 0))
    if key != "optim.micro_batch" or gpu is None or gpu.gib >= 0.85 * sized:
        return key, value, source
    while value > 1 and gpu.gib < 0.85 * sized:
        value, sized = value // 2, sized / 2
    return key, value, f"{source}, halved to suit {gpu.gib:.0f} GiB"
