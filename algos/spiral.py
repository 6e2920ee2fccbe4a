"""SPIRAL: self-play on multi-turn games with role-conditioned advantage, from scratch (arXiv 2506.24119).

    python algos/spiral.py --config configs/spiral_kuhn_tiny.yaml
    accelerate launch algos/spiral.py --config configs/spiral_kuhn_tiny.yaml

One policy plays every seat of a PettingZoo game. A running mean of the returns of each game and seat is its baseline.
Plain self-play narrows or cycles; what helps: a divergence from a reference, fixed or renewed now and then (a magnet:
magnetic mirror descent, arXiv 2206.05825; R-NaD, arXiv 2206.15378), replies to the same prompt compared with each other
(GiGPO, arXiv 2505.10978), games against past selves, random openings (an environment's setting) and averaged weights
(optim.ema_decay).
"""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field

from algos.config.load import check_arguments
from algos.config.schema import PolicyUpdateSection, TrainConfig


class SpiralSection(PolicyUpdateSection):
    baseline_decay: float = Field(
        0.95, ge=0, lt=1, description="Decay of the running mean of returns per game and seat."
    )
    advantage_level: Literal["role", "same_prompt"] = Field(
        "role", description="same_prompt: two or more replies to the same prompt are compared with each other (GiGPO)."
    )
    group_size: int = Field(1, ge=1, description="Games per start: with random openings, from the same opening.")
    loss: Literal["clipped", "policy_gradient"] = Field("clipped", description="PPO's loss, or plain -A log p.")
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy over the whole vocabulary.")
    final_entropy_coef: float | None = Field(
        None, ge=0, description="entropy_coef changes linearly to this value at the last step; null: it stays."
    )
    magnet_every: int = Field(0, ge=0, description="Steps between updates of the magnet to the policy; 0: never.")
    opponent_pool_share: float = Field(
        0.0, ge=0, lt=1, description="Share of games in which an earlier policy holds one seat."
    )
    opponent_pool_every: int = Field(20, ge=1, description="Steps between snapshots for the opponent pool.")
    opponent_pool_size: int = Field(10, ge=1, description="Newest snapshots in the opponent pool.")


class SpiralConfig(TrainConfig):
    spiral: SpiralSection = SpiralSection()


if __name__ == "__main__":
    check_arguments(SpiralConfig)  # a usage error ends here, before torch is imported

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from algos.data.batching import Batch
from algos.data.credit import same_prompt_advantages
from algos.data.episodes import Episode
from algos.data.rows import Row, to_rows
from algos.engines.base import Engine
from algos.engines.hf import HFEngine
from algos.engines.opponent_pool import OpponentPool
from algos.errors import ConfigError
from algos.maths.advantages import RoleBaseline
from algos.maths.losses import clipped_surrogate, kl_estimate, policy_gradient_loss
from algos.model.reference import Divergence, Magnet
from algos.model.snapshot import Snapshot
from algos.rollout.environments import make_aec
from algos.rollout.self_play import SelfPlay
from algos.training import learner as runs
from algos.training.learner import Learner
from algos.training.metrics import importance_metrics
from algos.training.optimizers import annealed
from algos.training.update import optimise


def check(config: SpiralConfig) -> None:
    """Everything that can be known to be wrong before a model loads. ``rollout.episodes`` are games."""
    spiral = config.spiral
    starts, left = divmod(config.rollout.episodes, spiral.group_size)
    if left:
        raise ConfigError(f"rollout.episodes {config.rollout.episodes} is no multiple of spiral.group_size")
    runs.check_divides(starts, "starts (rollout.episodes / spiral.group_size)", spiral.minibatches, "spiral")
    if spiral.magnet_every and not spiral.kl_coef:
        raise ConfigError("spiral.magnet_every has an effect with a magnet only: set spiral.kl_coef")
    if spiral.loss == "policy_gradient" and spiral.epochs * spiral.minibatches > 1:
        raise ConfigError("spiral.loss policy_gradient is right for one optimizer step a batch; more need clipped")
    runs.check(config, make_aec)


def collect(
    config: SpiralConfig, learner: Learner, games: SelfPlay, past: OpponentPool, step: int
) -> tuple[list[Episode], list[Episode]]:
    """Plays this process's games of a step; the policy's own sides of them, and those of past selves."""
    size = config.spiral.group_size
    starts = [start for start in learner.starts(step, config.rollout.episodes // size) for _ in range(size)]
    rng = np.random.default_rng([config.run.seed, step, learner.accelerator.process_index, 2])
    opponents_by_seat: dict[tuple[int, int], Engine] = {}
    for game, start in enumerate(starts):
        chance, which, seat = rng.random(), rng.random(), int(rng.integers(games.seats(start.env)))
        if past.players and chance < config.spiral.opponent_pool_share:
            opponents_by_seat[game, seat] = past.players[int(which * len(past.players))]
    with learner.accelerator.autocast():
        played = games.play(
            starts,
            learner.engine,
            config.rollout.temperature,
            learner.generator(step),
            opponents_by_seat=opponents_by_seat,
        )
    own: list[Episode] = []
    others: list[Episode] = []
    for game, sides in enumerate(played):
        for side in sides:
            (others if (game, side.player) in opponents_by_seat else own).append(side)
    return own, others


def advantage(
    episodes: list[Episode], baseline: RoleBaseline, rank: int, level: str = "role"
) -> tuple[list[Row], dict[str, float]]:
    """Role-conditioned advantage: a return less the running mean of its game and seat, for each of its tokens.

    The baselines see the episodes of all processes, in their order, and are the same on each. A seat that never moved
    has earned nothing by playing: its episode moves none.
    """
    episodes = [episode for episode in episodes if episode.turns]
    everyone = gather_object([(rank, e.total_reward, (e.env_id, e.player)) for e in episodes])
    credits = baseline.advantages([earned for _, earned, _ in everyone], [key for _, _, key in everyone])
    mine = [value for value, (owner, _, _) in zip(credits, everyone, strict=True) if owner == rank]
    for episode, value in zip(episodes, mine, strict=True):
        for turn in episode.turns:
            turn.advantage = value
    if level == "same_prompt":
        same_prompt_advantages(episodes, gathered=True)
    rows: list[Row] = []
    for episode in episodes:
        rows += to_rows(episode.turns, [[turn.advantage] * len(turn.action_ids) for turn in episode.turns])
    return rows, {f"baseline/{'_'.join(map(str, key))}": value for key, value in baseline.values.items()}


def batch_loss(
    config: SpiralConfig,
    batch: Batch,
    policy: torch.nn.Module,
    magnet: Divergence | None,
    kl_coef: float,
    entropy_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each action token of the batch, and metrics to report; all ``[tokens]``."""
    spiral = config.spiral
    logprobs, entropy, *kl = policy(batch, magnet.hidden(batch) if magnet else None, spiral.kl_direction)
    old, advantages = batch.actions("old_logprobs"), batch.actions("advantages")
    ratio = (logprobs - old).exp()
    loss = policy_gradient_loss(logprobs, advantages)
    if spiral.loss == "clipped":
        loss = clipped_surrogate(logprobs - old, advantages, spiral.clip_low, spiral.clip_high)
    clipped = (ratio < 1 - spiral.clip_low) | (ratio > 1 + spiral.clip_high)
    metrics = {"policy/entropy": entropy, "losses/approx_kl": kl_estimate(old, logprobs), "losses/clipfrac": clipped}
    metrics |= {"policy/ratio": ratio, "policy/engine_difference": (logprobs - old).abs(), "losses/policy": loss}
    if spiral.tis_cap:
        loss = loss * batch.actions("importance")
        metrics |= importance_metrics(batch)
    loss = loss - entropy_coef * entropy
    for divergence in kl:
        loss = loss + kl_coef * divergence
        metrics["policy/kl_to_reference"] = divergence
    return loss, metrics


def update(config: SpiralConfig, rows: list[Row], learner: Learner, step: int) -> dict[str, float]:
    """``epochs`` x ``minibatches`` optimizer steps on ``rows``; what it returns are means over tokens."""
    spiral, policy, last = config.spiral, learner.policy, config.run.max_steps
    kl_coef = annealed(spiral.kl_coef, spiral.final_kl_coef, step, last)
    entropy_coef = annealed(spiral.entropy_coef, spiral.final_entropy_coef, step, last)
    learner.annotate(rows, tis_cap=spiral.tis_cap)
    return optimise(
        rows,
        lambda batch: batch_loss(config, batch, policy, learner.reference, kl_coef, entropy_coef),
        policy,
        learner.optimizer,
        learner.accelerator,
        config.optim,
        learner.shuffler(step),
        aggregation=spiral.aggregation,
        max_new_tokens=config.rollout.max_new_tokens,
        epochs=spiral.epochs,
        minibatches=spiral.minibatches,
        merge=not spiral.tis_cap,
        columns=runs.columns(False, spiral.tis_cap),
    )


def train(config: SpiralConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync; then log, evaluate, checkpoint."""
    spiral = config.spiral
    learner = Learner("spiral", config, sources, resume)
    baseline = RoleBaseline(spiral.baseline_decay)
    sampler = HFEngine(learner.model, learner.chat.stop_ids, config.rollout.max_new_tokens)
    past = OpponentPool(
        sampler, spiral.opponent_pool_size
    )  # they wear the model's weights, whatever engine the policy has
    learner.register_for_checkpointing(baseline=baseline, past=past)
    magnet = Snapshot(learner.model) if spiral.kl_coef else None
    if magnet:
        learner.register_for_checkpointing(magnet=magnet)
        learner.reference = Magnet(magnet, config.rollout.temperature)
    games = SelfPlay(config, learner.chat)
    for step in learner.steps():
        with learner.phase("collect"):
            episodes, others = collect(config, learner, games, past, step)
        with learner.phase("update"):
            rows, metrics = advantage(episodes, baseline, learner.accelerator.process_index, spiral.advantage_level)
            metrics |= update(config, rows, learner, step)
        with learner.phase("sync"):
            learner.sync(step + 1)
            if magnet and spiral.magnet_every and (step + 1) % spiral.magnet_every == 0:
                magnet.update()
            if spiral.opponent_pool_share and (step + 1) % spiral.opponent_pool_every == 0:
                past.take(step + 1)
        metrics["episode/against_opponent_pool"] = len(others) / max(len(episodes), 1)
        learner.end_step(step, episodes, rows, metrics)
    learner.finish()


def main(argv: list[str]) -> None:
    runs.run_script(SpiralConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
