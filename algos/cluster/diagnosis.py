"""What `llm-gym doctor` says about training here: the machine, the profile that suits it, the memory a model takes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from algos.cluster.memory import GIB, estimate, peak, read_config, shape_of
from algos.cluster.offline import go_offline
from algos.config import profiles
from algos.config.load import load, read_yaml
from algos.config.recipes import find_recipe
from algos.config.schema import Config, OptimSection
from algos.config.scripts import script_of


def diagnose(words: Sequence[str], processes: int | None, zero: int) -> list[str]:
    """The lines of `llm-gym doctor` about training; settings and memory estimate only where ``words`` give settings.

    Args:
        processes: Number of processes; None: one for each GPU.
        zero: ZeRO stage of DeepSpeed; 0: plain data parallelism.

    Raises:
        ConfigError: A setting is wrong, or the model's config.json is neither here nor to be had.
    """
    machine, offline = profiles.detect(), go_offline()
    chosen, reason = profiles.choose(machine)
    lines = [
        "Machine",
        f"  found            {machine.describe()}",
        f"  network          {f'offline: {offline}' if offline else 'not ruled out (HF_HUB_OFFLINE=1 rules it out)'}",
    ]
    lines += ["", "Profile", f"  --profile auto   {chosen}: {reason}"]
    lines += [f"    {key} {value}" for key, value, _ in profiles.settings(chosen, machine)]
    if words:
        config, sources = _config(words)
        values = config.model_dump(mode="json")
        split = [(key, source, *key.split(".", 1)) for key, source in sources.items()]
        lines += ["", "Settings", *(f"  {key} {values[part][name]}  # {source}" for key, source, part, name in split)]
        if config.model.path != "tiny":
            named = next((source.split()[1] for source in sources.values() if source.startswith("profile ")), chosen)
            lines += ["", *_memory(config, machine, named, processes or max(len(machine.gpus), 1), zero)]
    return lines


def _config(words: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """The settings of the trainer that the files are for, with the profile of this machine if none is named."""
    files = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    sections = [section for file in files for section in read_yaml(find_recipe(file))]
    module = importlib.import_module(f"algos.{script_of(sections) or 'grpo'}")
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    schema: type[Config] = next(value for value in own if isinstance(value, type) and issubclass(value, Config))
    named = "profile" in sections or any(word.startswith("--profile=") for word in words)
    config, sources, _ = load(schema, [*words, *(() if named else ("--profile=auto",))])
    return config, sources


def _memory(config: Any, machine: profiles.Machine, profile: str, processes: int, zero: int) -> list[str]:
    shape = shape_of(read_config(config.model.path), config.model)
    optim: OptimSection = config.optim
    parts = estimate(shape, config, optim, processes, zero)
    how = f"ZeRO-{zero}" if zero else "data parallel"
    adapters = f", {shape.adapters / 1e6:.1f} million of them in adapters trained" if shape.adapters else ""
    lines = [
        f"Memory estimate for {config.model.path}, on each of {processes} process(es), {how}",
        f"  {shape.parameters / 1e6:.1f} million parameters{adapters}",
        *(f"  {name:26} {size / GIB:8.2f} GiB" for name, size in parts.items()),
        f"  {'at most at a time':26} {peak(parts) / GIB:8.2f} GiB",
    ]
    gpu = machine.weakest
    room = gpu.gib if gpu else profiles.SIZED_FOR_GIB.get(profile, machine.ram_gib / processes)
    if peak(parts) / GIB <= 0.9 * room:  # a tenth for the libraries and fragmentation
        return [*lines, f"  fits in {room:.0f} GiB"]
    while optim.micro_batch > 1 and peak(estimate(shape, config, optim, processes, zero)) / GIB > 0.9 * room:
        optim = optim.model_copy(update={"micro_batch": optim.micro_batch // 2})
    if peak(estimate(shape, config, optim, processes, zero)) / GIB <= 0.9 * room:
        return [*lines, f"  does not fit in {room:.0f} GiB; --optim.micro_batch {optim.micro_batch} does"]
    advice = "--model.gradient_checkpointing true, --model.lora_rank, --model.quantize nf4, --zero 2 or 3"
    return [
        *lines,
        f"  does not fit in {room:.0f} GiB, nor with a smaller micro-batch: {advice}, fewer episodes a process",
    ]
