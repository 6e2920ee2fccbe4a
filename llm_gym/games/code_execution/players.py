"""Scripted players of code execution. They read what a player reads: the task."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_gym.games.code.drawing import broken
from llm_gym.games.code_execution.tasks import solve

SHARE_BROKEN = 0.6
"""How many of the sampler's programs have a fault. Not every fault keeps a program from running."""


def reference(observation: str, info: dict[str, Any], rng: np.random.Generator | None = None) -> str:
    """A program that does the task."""
    return solve(observation.splitlines()[0])


def sampler(observation: str, info: dict[str, Any], rng: np.random.Generator) -> str:
    """A weak player: about half of its programs run and print something."""
    program = reference(observation, info)
    return broken(program, rng) if rng.random() < SHARE_BROKEN else program
