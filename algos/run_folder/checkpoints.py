"""Checkpoints: ordinary Hugging Face folders with the optimizer's state beside the weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

STATE_FILE = "trainer_state.pt"


def save(
    run_dir: Path, step: int, model: Any, tokenizer: Any, state: dict[str, Any], keep: int, best: int | None = None
) -> Path:
    """Writes ``checkpoints/step_<step>``; it appears under that name only once it is whole on disk.

    Args:
        model: A Hugging Face model; ``from_pretrained`` loads the folder without this package.
        state: What else a resumed run needs (optimizer, counters): anything ``torch.save`` takes.
        keep: Older checkpoints than the newest ``keep`` are removed.
        best: The step of one that stays all the same.
    """
    folder = run_dir / "checkpoints" / f"step_{step:06d}"
    if folder in all_of(run_dir):
        return folder
    unfinished = folder.with_suffix(".tmp")
    for torn in (folder, *folder.parent.glob("*.tmp")):
        shutil.rmtree(torn, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    torch.save({"step": step, **state}, unfinished / STATE_FILE)
    for file in unfinished.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    unfinished.rename(folder)
    for old in all_of(run_dir)[:-keep]:
        if old.name != f"step_{best or 0:06d}":
            shutil.rmtree(old.rename(old.with_suffix(".tmp")))  # what is half removed must not look whole
    return folder


def all_of(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(
        p for p in (run_dir / "checkpoints").glob("step_*") if p.suffix != ".tmp" and (p / STATE_FILE).exists()
    )


def load_state(folder: Path) -> dict[str, Any]:
    """The state that :func:`save` was given, and ``step``."""
    return dict(torch.load(folder / STATE_FILE, map_location="cpu", weights_only=False))  # our own file
