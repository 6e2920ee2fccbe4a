"""How much better than expected an action was."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

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


def nonzero_std(returns: Tensor) -> Tensor:
    """Groups with different returns: ``[groups]`` bool, False where all of ``[groups, group_size]`` are equal."""
    return (returns != returns[:, :1]).any(dim=1)


def gae(rewards: Tensor, values: Tensor, bootstrap: float, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, Schulman et al. (arXiv 1506.02438), equation 16, of one episode.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = sum over l of (gamma gae_lambda)^l delta_{t+l}.

    A step is a decision: a turn, or a token that the policy sampled. Observation tokens are no steps and must have been
    taken out: each one left in between multiplies the credit of all that came before it by ``gamma * gae_lambda``.

    Args:
        rewards: What followed each decision, ``[n]``.
        values: The critic's estimate before each decision, ``[n]``; no gradient flows into the results.
        bootstrap: The value after the last decision: 0 if the episode ended, the critic's estimate if it was cut off.
        gamma: Discount a decision, 0 to 1.
        gae_lambda: lambda, 0 (one-step errors) to 1 (returns minus values).

    Returns:
        Advantages A, and value targets A + V; both ``[n]``, of ``values``'s type and device.

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

    Two passes in float64: the mean first, then the squared deviations from it, since E[x^2] - E[x]^2 cancels. Over
    several processes give ``reduce``, which adds a small tensor up over them, for example
    ``lambda sums: accelerator.reduce(sums, "sum")``. Every process must call this function, one that has no advantages
    with an empty tensor; each is then given what one process would compute for its part of the batch.

    Args:
        advantages: Any shape; may be empty.
        weights: How much each counts in the mean and the variance, >= 0, the same shape; None: all alike.
        reduce: Sums over processes; called with tensors ``[2]`` and ``[1]``, float64, on the device of ``advantages``.

    Returns:
        The same shape and type. All 0 if the advantages are equal (to 1e-12 of their size), as they tell nothing.
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
    """How much of the targets' variance a critic accounts for: 1 - Var(targets - values) / Var(targets).

    Args:
        values: The critic's estimates, any shape.
        targets: What they should have been, the same shape.

    Returns:
        1: all of it; 0: no better than a constant; negative: worse than one. 0 where all targets are equal.
    """
    if targets.numel() == 0 or targets.min() == targets.max():
        return 0.0
    exact = targets.detach().double()
    left = (exact - values.detach().double()).var(correction=0)
    return (1.0 - left / exact.var(correction=0)).item()


class RunningScale:
    """The deviation of all returns seen so far, by which rewards may be divided so that their size does not matter.

    Welford's algorithm (1962, https://doi.org/10.1080/00401706.1962.10490022). Over several processes, gather the
    returns of all of them first, in rank order.

    Attributes:
        value: The deviation of the returns; 1 until two of them differ.
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
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, float]) -> None:
        vars(self).update(state)


class RoleBaseline:
    """Role-conditioned advantage of SPIRAL (arXiv 2506.24119): a running mean of returns for each game and seat.

    A = R - b[key], then b[key] <- decay b[key] + (1 - decay) R. In self-play on a game that favours a seat, one mean
    for both would credit the players with their seats.

    Over several processes, gather returns and keys of all of them first, in rank order, and give every process the
    whole sequence: the baselines then stay equal everywhere. The order of the sequence matters.

    Attributes:
        values: b for each key met so far; one not met has 0.

    Raises:
        ValueError: ``decay`` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        self.decay = decay
        self.values: dict[Any, float] = {}

    def advantages(self, returns: Sequence[float], keys: Sequence[Hashable]) -> list[float]:
        """One advantage for each return, in the order given; each is taken before its own return moves the baseline.

        Args:
            returns: What a player earned in an episode.
            keys: Whose return each is: ``(game, seat)``.

        Raises:
            ValueError: Not as many keys as returns; the baselines are left as they were.
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
        """For a checkpoint: plain lists, strings and numbers (as far as the keys are made of them)."""
        keys = [list(key) if isinstance(key, tuple) else key for key in self.values]
        return {"keys": keys, "values": list(self.values.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave, in place of what it holds."""
        keys = [tuple(key) if isinstance(key, list) else key for key in state["keys"]]
        self.values = dict(zip(keys, state["values"], strict=True))
