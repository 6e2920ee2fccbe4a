"""Advantages: how much better than expected an action was."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def group_relative(returns: Tensor, normalise: Literal["std", "none"] = "std", eps: float = 1e-6) -> Tensor:
    """Group-relative advantage of GRPO.

    ``std``: A_i = (R_i - mean(R)) / (std(R) + eps), DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    ``none``: A_i = R_i - mean(R), Dr. GRPO (arXiv 2503.20783), section 3.2: dividing by the deviation gives easy and
    hard starts more weight than others.

    Args:
        returns: Episode returns, ``[groups, group_size]``; the episodes of a row share their start.
        normalise: What the centred returns are divided by; ``std`` is the sample deviation (n - 1).
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
    """The advantage of a turn over the other turns taken in the same state.

    A_t = G_t - mean of G over the turns in t's state: the step-level advantage of GiGPO (arXiv 2505.10978). It assigns
    credit to single turns of an episode. The mean includes the turn itself, so the expected policy gradient of n turns
    in a state is (n - 1) / n of the one without a baseline.

    Args:
        returns_to_go: G_t, the return of each turn's episode from that turn on, ``[turns]``.
        states: The index of each turn's state, ``[turns]``, 0 to the number of states - 1.

    Returns:
        Advantages, ``[turns]``, exactly 0 in a state whose turns have equal returns; and the number of turns in each
        turn's state, ``[turns]``.
    """
    counts = torch.bincount(states)
    means = torch.zeros(len(counts), dtype=returns_to_go.dtype).index_add_(0, states, returns_to_go) / counts
    low, high = (means.scatter_reduce(0, states, returns_to_go, how, include_self=False) for how in ("amin", "amax"))
    return (returns_to_go - means[states]).masked_fill((low == high)[states], 0.0), counts[states]


def nonzero_std(returns: Tensor) -> Tensor:
    """Groups with different returns: ``[groups]`` bool, False where all of ``[groups, group_size]`` are equal."""
    return (returns != returns[:, :1]).any(dim=1)


def gae(rewards: Tensor, values: Tensor, bootstrap: float, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, Schulman et al. (arXiv 1506.02438), equation 16, of one episode.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = sum over l of (gamma gae_lambda)^l delta_{t+l}.

    A step is a decision: a turn, or a token that the policy sampled. Leave out observation tokens: each one between two
    decisions would multiply the credit of all earlier decisions by ``gamma * gae_lambda``.

    Args:
        rewards: The reward after each decision, ``[n]``.
        values: The critic's estimate before each decision, ``[n]``; no gradient flows into the results.
        bootstrap: The value after the last decision: 0 if the episode terminated, the critic's estimate if truncated.
        gamma: Discount per decision, 0 to 1.
        gae_lambda: lambda, 0 (one-step errors) to 1 (returns minus values).

    Returns:
        Advantages A, and value targets A + V; both ``[n]``, in the type and on the device of ``values``.

    Raises:
        ValueError: ``rewards`` and ``values`` are not both ``[n]``.
    """
    if rewards.ndim != 1 or rewards.shape != values.shape:
        raise ValueError(f"rewards {list(rewards.shape)} and values {list(values.shape)} must both be [n]")
    current = values.tolist()
    following = [*current, bootstrap][1:]
    advantage, backwards = 0.0, []
    for reward, value, after in zip(reversed(rewards.tolist()), reversed(current), reversed(following), strict=True):
        advantage = reward + gamma * after - value + gamma * gae_lambda * advantage
        backwards.append(advantage)
    advantages = torch.tensor(backwards[::-1], dtype=values.dtype, device=values.device)
    return advantages, advantages + values.detach()


def whiten(
    advantages: Tensor, weights: Tensor | None = None, reduce: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor:
    """Advantages centred at 0 and scaled to unit variance over the global batch.

    Two passes in float64: the mean first, then the squared deviations from it, since E[x^2] - E[x]^2 cancels. With
    several processes pass ``reduce``, for example ``lambda sums: accelerator.reduce(sums, "sum")``. Every process must
    then call this function, with an empty tensor if it has no advantages; the results are those of a single process.

    Args:
        advantages: Any shape; may be empty.
        weights: The weight of each in the mean and the variance, >= 0, the same shape; None: equal weights.
        reduce: Sums over processes; called with tensors ``[2]`` and ``[1]``, float64, on the device of ``advantages``.

    Returns:
        The same shape and type. All 0 if the advantages are equal (to 1e-12 of their size).
    """
    x = advantages.detach().double()
    w = torch.ones_like(x) if weights is None else weights.double()
    count, total = reduce(torch.stack([w.sum(), (w * x).sum()])).tolist()
    if count == 0:
        return torch.zeros_like(advantages)
    mean = total / count
    deviation = (reduce((w * (x - mean).square()).sum()[None]).item() / count) ** 0.5
    if deviation <= 1e-12 * abs(mean):
        return torch.zeros_like(advantages)
    return ((x - mean) / deviation).to(advantages.dtype)


def explained_variance(values: Tensor, targets: Tensor) -> float:
    """The share of the targets' variance that a critic explains: 1 - Var(targets - values) / Var(targets).

    Args:
        values: The critic's estimates, any shape.
        targets: The value targets, the same shape.

    Returns:
        1: all of it; 0: no better than a constant; negative: worse than a constant. 0 if all targets are equal.
    """
    if targets.numel() == 0 or targets.min() == targets.max():
        return 0.0
    exact = targets.detach().double()
    left = (exact - values.detach().double()).var(correction=0)
    return (1.0 - left / exact.var(correction=0)).item()


class RunningScale:
    """The standard deviation of all returns seen so far; dividing rewards by it makes training independent of scale.

    Welford's algorithm (1962, https://doi.org/10.1080/00401706.1962.10490022). Over several processes, gather the
    returns of all of them first, in rank order.

    Attributes:
        value: The standard deviation; 1 until two returns differ.
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    @property
    def value(self) -> float:
        return (self._squares / self._count) ** 0.5 if self._squares > 0 else 1.0

    def update(self, returns: Sequence[float]) -> None:
        for each in returns:
            self._count += 1
            distance = each - self._mean
            self._mean += distance / self._count
            self._squares += distance * (each - self._mean)

    def state_dict(self) -> dict[str, float]:
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._count, self._mean, self._squares = int(state["count"]), state["mean"], state["squares"]


class RoleBaseline:
    """Role-conditioned advantage of SPIRAL (arXiv 2506.24119): a running mean of returns for each game and seat.

    A = R - b[key], then b[key] <- decay b[key] + (1 - decay) R. If a game favours one seat, a single mean for both
    seats would credit a player for its seat.

    Over several processes, gather returns and keys of all of them first, in rank order, and pass the whole sequence on
    every process, so that the baselines stay equal. The order of the sequence matters.

    Attributes:
        values: b for each key seen so far; the default is 0.

    Raises:
        ValueError: ``decay`` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        self.decay = decay
        self.values: dict[Any, float] = {}

    def advantages(self, returns: Sequence[float], keys: Sequence[Hashable]) -> list[float]:
        """One advantage for each return, in the given order, computed before that return changes the baseline.

        Args:
            returns: The return of a player in each episode.
            keys: ``(game, seat)`` of each return.

        Raises:
            ValueError: The numbers of keys and returns differ; the baselines are unchanged.
        """
        if len(returns) != len(keys):
            raise ValueError(f"{len(returns)} returns but {len(keys)} keys")
        result = []
        for value, key in zip(returns, keys, strict=True):
            baseline = self.values.get(key, 0.0)
            result.append(value - baseline)
            self.values[key] = self.decay * baseline + (1.0 - self.decay) * value
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = {tuple(key) if isinstance(key, list) else key: value for key, value in state["values"]}  # of JSON
