"""How much better than expected an action was."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_relative(returns: Tensor, normalise: Literal["std", "none"] = "std", eps: float = 1e-6) -> Tensor:
    """Group-relative advantage of GRPO.

    ``std``: A_i = (R_i - mean(R)) / (std(R) + eps), DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    ``none``: A_i = R_i - mean(R), Dr. GRPO (arXiv 2503.20783), section 3.2: dividing by the deviation weighs easy and
    hard starts more than others.

    Args:
        returns: Episode returns, ``[groups, group_size]``; the episodes of a row share their start.
        normalise: What the centred returns are divided by. The deviation is the sample's (n - 1).
        eps: Keeps the quotient finite.

    Returns:
        Advantages, ``[groups, group_size]``; exactly 0 in a group whose returns are all equal.
    """
    centred = returns - returns.mean(dim=1, keepdim=True)
    equal = (returns == returns[:, :1]).all(dim=1, keepdim=True)
    if normalise == "std" and returns.shape[1] > 1:
        centred = centred / (returns.std(dim=1, keepdim=True) + eps)
    return centred.masked_fill(equal, 0.0)


def same_state(returns_to_go: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """How much better than the others' a turn was, among turns taken in the very same state.

    A_t = G_t - mean of G over the turns in t's state: the step-level advantage of GiGPO (arXiv 2505.10978).
    It tells which turn of an episode was the good or the bad one. The mean includes the turn itself, so the expected
    policy gradient of n turns in a state is (n - 1) / n of the one without a baseline.

    Args:
        returns_to_go: G_t, what each turn's episode earned from that turn on, ``[turns]``.
        states: A number for each turn's state, ``[turns]``, 0 to the number of states - 1.

    Returns:
        Advantages, ``[turns]``, exactly 0 in a state whose turns all earned the same; and how many turns shared each
        one's state, ``[turns]``.
    """
    counts = torch.bincount(states)
    means = torch.zeros(len(counts), dtype=returns_to_go.dtype).index_add_(0, states, returns_to_go) / counts
    low, high = (means.scatter_reduce(0, states, returns_to_go, how, include_self=False) for how in ("amin", "amax"))
    return (returns_to_go - means[states]).masked_fill((low == high)[states], 0.0), counts[states]


def has_signal(returns: Tensor) -> Tensor:
    """Which groups tell anything: ``[groups]`` bool, False where all returns of ``[groups, group_size]`` are equal."""
    return (returns != returns[:, :1]).any(dim=1)
