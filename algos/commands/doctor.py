"""What `llm-gym doctor` says about training here: the machine, the profile that suits it, the memory a model takes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from algos.cluster.memory import GIB, estimate, peak, read_config, shape_of
from algos.cluster.offline import go_offline
from algos.config import profiles
from algos.config.load import load, read_yaml
from algos.config.schema import Config, OptimSection
from algos.errors import ConfigError, die

ALGORITHMS = ("grpo", "ppo", "spiral")


def main(argv: list[str]) -> None:
    """Prints it; the settings and the memory estimate only where the arguments name any."""
    try:
        print("\n".join(report(argv)))
    except ConfigError as error:
        die(error)


def report(argv: list[str]) -> list[str]:
    """Its lines.

    Raises:
        ConfigError: An argument is wrong, or the model's config.json is neither here nor to be had.
    """
    counts, words = _counts(argv)
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
            processes = counts["processes"] or max(len(machine.gpus), 1)
            lines += ["", *_memory(config, machine, named, processes, counts["zero"])]
    return lines


def _counts(argv: list[str]) -> tuple[dict[str, int], list[str]]:
    """``--processes N`` and ``--zero STAGE``, and the words that are left."""
    counts, words = {"processes": 0, "zero": 0}, list(argv)
    for name, highest in (("processes", 10**6), ("zero", 3)):
        flag = f"--{name}"
        while flag in words:
            at = words.index(flag)
            text = words[at + 1] if at + 1 < len(words) else ""
            if not text.isdigit() or int(text) > highest:
                raise ConfigError(f"{flag} {text!r}: must be a whole number, at most {highest}")
            counts[name] = int(text)
            del words[at : at + 2]
    return counts, words


def _config(words: list[str]) -> tuple[Any, dict[str, str]]:
    """The settings of the trainer that the files are for, with the profile of this machine if none is named."""
    files = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config"]
    sections = [section for file in files for section in read_yaml(Path(file))]
    algorithm = next((name for name in ALGORITHMS if name in sections), ALGORITHMS[0])
    schema: type[Config] = getattr(importlib.import_module(f"algos.{algorithm}"), f"{algorithm.capitalize()}Config")
    named = "profile" in sections or "--profile" in words
    config, sources, _ = load(schema, words if named else [*words, "--profile", "auto"])
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
