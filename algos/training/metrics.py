"""The metrics of a step, with the same names for every algorithm."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from algos.config.schema import PolicyUpdateSection
from algos.data.batching import Batch
from algos.data.episodes import Episode
from algos.maths.losses import kl_estimate
from algos.model.forward import PolicyOutput


def policy_metrics(
    output: PolicyOutput, batch: Batch, log_ratio: Tensor, settings: PolicyUpdateSection
) -> dict[str, Tensor]:
    """Metrics of an update, ``[tokens]`` each.

    Args:
        log_ratio: The log of the importance ratio that the loss clips, ``[tokens]``.
    """
    old, ratio = batch.at_actions(batch.old_logprobs), log_ratio.exp()
    metrics = {
        "policy/entropy": output.entropy,
        "policy/ratio": ratio,
        "policy/engine_difference": (output.logprobs - old).abs(),
        "losses/approx_kl": kl_estimate(old, output.logprobs),
        "losses/clipfrac": (ratio < 1 - settings.clip_low) | (ratio > 1 + settings.clip_high),
    }
    if output.kl is not None:
        metrics["policy/kl_to_reference"] = output.kl
    if settings.tis_cap:
        weights = batch.at_actions(batch.tis_weights)
        metrics |= {"policy/importance": weights, "policy/importance_squared": weights.square()}
        metrics["policy/engine_difference"] = batch.at_actions(batch.engine_difference)
    return metrics


def describe(episodes: Sequence[Episode]) -> dict[str, float]:
    """Metrics of a step's episodes; none without episodes."""
    if not episodes:
        return {}
    turns = [turn for episode in episodes for turn in episode.turns]
    returns = np.array([episode.total_reward for episode in episodes])
    outcomes = Counter(episode.outcome for episode in episodes)
    parses = Counter(turn.parse for turn in turns)
    metrics = {"reward/mean": float(returns.mean()), "reward/std": float(returns.std())}
    terms: defaultdict[str, float] = defaultdict(float)
    for episode in episodes:
        for name, value in episode.info.get("reward_terms", {}).items():
            terms[name] += value
    if len(terms) > 1:
        metrics |= {f"reward/{name}": total / len(episodes) for name, total in terms.items()}
    for name in ("win", "draw", "loss", "invalid", "solved", "failed", "truncated"):
        if outcomes[name] or name in ("win", "loss", "invalid"):
            metrics[f"outcome/{name}"] = outcomes[name] / len(episodes)
    seats = sorted({episode.player for episode in episodes})
    for seat in seats if len(seats) > 1 else ():  # in self-play one seat's win is the other's loss
        of_seat = [episode.outcome for episode in episodes if episode.player == seat]
        metrics[f"outcome/win_seat_{seat}"] = of_seat.count("win") / len(of_seat)
    metrics |= {f"parse/{name}": parses[name] / max(len(turns), 1) for name in ("ok", "malformed", "illegal")}
    lengths = [len(turn.action_ids) for turn in turns]
    cut = sum(turn.stop_reason == "length" for turn in turns)
    metrics |= {"reply/tokens": float(np.mean(lengths or [0])), "reply/cut": cut / max(len(turns), 1)}
    return metrics | {"tokens/sampled": float(sum(lengths)), "episode/turns": len(turns) / len(episodes)}
