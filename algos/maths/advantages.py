"""How much better than expected an action was."""

from __future__ import annotations

from typing import Literal

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


def has_signal(returns: Tensor) -> Tensor:
    """Which groups tell anything: ``[groups]`` bool, False where all returns of ``[groups, group_size]`` are equal."""
    return (returns != returns[:, :1]).any(dim=1)
