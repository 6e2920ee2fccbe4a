"""Every generator of a run as a pure function of the run's seed, the step and the process: a resumed run finds them."""

from __future__ import annotations

import numpy as np
import torch


def starts_rng(seed: int, step: int) -> np.random.Generator:
    """Draws the starts of a step; the same on every process."""
    return np.random.default_rng([seed, step, 1])


def first_episode_seed(seed: int, step: int, starts: int) -> int:
    """The seed of a step's first start; the others follow. No two steps of a run, nor two runs, share any."""
    return (seed + 1) * 10**9 + step * starts


def sampling_generator(seed: int, step: int, process: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Samples the replies of a process in a step."""
    return _generator([seed, step, process], device)


def evaluation_generator(seed: int, process: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Samples the replies of a process in an evaluation; independent of the step."""
    return _generator([seed, process], device)


def shuffling_rng(seed: int, step: int, process: int) -> np.random.Generator:
    """Shuffles a process's rows in a step."""
    return np.random.default_rng([seed, step, process])


def opponents_rng(seed: int, step: int, process: int) -> np.random.Generator:
    """Chooses which games of a step are played against the opponent pool."""
    return np.random.default_rng([seed, step, process, 2])


def _generator(entropy: list[int], device: torch.device | str) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
