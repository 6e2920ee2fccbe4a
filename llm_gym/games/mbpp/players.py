"""Scripted players of MBPP."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_gym.games.code.drawing import broken
from llm_gym.games.mbpp.dataset import read_tasks

SHARE_BROKEN = 0.7
"""How many of the sampler's solutions have a fault. Most faults fail a test."""


def reference(observation: str, info: dict[str, Any], rng: np.random.Generator | None = None) -> str:
    """The reference solution, looked up in the data set by the task's number."""
    return next(task.code for task in read_tasks(info["dataset"]) if task.task_id == info["task_id"])


def sampler(observation: str, info: dict[str, Any], rng: np.random.Generator) -> str:
    """A weak player: the reference solution, more often than not with a fault."""
    code = reference(observation, info)
    return broken(code, rng) if rng.random() < SHARE_BROKEN else code
