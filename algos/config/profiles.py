"""Hardware profiles: what this machine is, and the settings in `configs/profiles` that suit it."""

from __future__ import annotations

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
    """Whether the host's name, the home or the working directory says MIT Supercloud."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # a folder deleted under our feet
        here = ""
    places = (socket.gethostname(), str(Path.home()), here)
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
    """What was found here.

    Attributes:
        place: Supercloud, Lambda and the SLURM job, where they are.
    """

    gpus: tuple[Gpu, ...] = ()
    cores: int = 1
    ram_gib: float = 0.0
    place: tuple[str, ...] = ()

    @property
    def weakest(self) -> Gpu | None:
        """The GPU with the least memory, which decides for all."""
        return min(self.gpus, key=lambda gpu: (gpu.bf16, gpu.gib), default=None)

    def describe(self) -> str:
        gpus = [f"{gpu.name}, {gpu.gib:.0f} GiB, {'bf16' if gpu.bf16 else 'no bf16'}" for gpu in self.gpus]
        counted = [f"{gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(gpus)] or ["no CUDA GPU"]
        return "; ".join([*counted, f"{self.cores} cores, {self.ram_gib:.0f} GiB of memory", *self.place])


def detect() -> Machine:
    """Looks at this machine: its GPUs, processors and memory, and the cluster it belongs to."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        gpus.append(Gpu(found.name, found.total_memory / 2**30, found.major >= BF16_SINCE))
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(tuple(gpus), len(os.sched_getaffinity(0)), ram, tuple(_place()))


def _place() -> list[str]:
    place = ["MIT Supercloud"] if supercloud() else []
    if "lambda" in socket.gethostname().lower() or any(Path("/etc/apt/sources.list.d").glob("lambda*")):
        place.append("Lambda")
    if job := os.environ.get("SLURM_JOB_ID"):
        place.append(f"SLURM job {job} on {os.environ.get('SLURM_JOB_NUM_NODES', '1')} node(s)")
    return place


def choose(machine: Machine) -> tuple[str, str]:
    """The profile for a machine, by name where it has one, else by what its weakest GPU can do; and why."""
    gpu = machine.weakest
    if gpu is None:
        return "cpu", "there is no CUDA GPU"
    for name in SIZED_FOR_GIB:
        if re.search(rf"\b{name}\b", gpu.name, re.IGNORECASE):
            return name, f"the GPU is {gpu.name}"
    if not gpu.bf16:
        return "v100", f"{gpu.name} has no bf16"
    if gpu.gib > 0.85 * SIZED_FOR_GIB["h200"]:
        return "h200", f"{gpu.name} has bf16 and {gpu.gib:.0f} GiB"
    return "a100", f"{gpu.name} has bf16 and {gpu.gib:.0f} GiB"


def settings(name: str, machine: Machine | None = None) -> list[tuple[str, Any, str]]:
    """The settings of a profile as (``section.key``, value, where it came from).

    Flash Attention is left out where it is not installed, and `optim.micro_batch`, which never changes the gradient, is
    halved until it suits the memory of the GPUs that are here.

    Args:
        name: One of :data:`NAMES`.
        machine: By default the one this runs on.

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
    return [_fitted(name, machine, *setting) for setting in flat if not _needs_flash_attention(setting[1])]


def _needs_flash_attention(value: Any) -> bool:
    return value == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None


def _fitted(name: str, machine: Machine, key: str, value: Any, source: str) -> tuple[str, Any, str]:
    gpu, sized = machine.weakest, float(SIZED_FOR_GIB.get(name, 0))
    if key != "optim.micro_batch" or gpu is None or gpu.gib >= 0.85 * sized:
        return key, value, source
    while value > 1 and gpu.gib < 0.85 * sized:
        value, sized = value // 2, sized / 2
    return key, value, f"{source}, halved to suit {gpu.gib:.0f} GiB"
