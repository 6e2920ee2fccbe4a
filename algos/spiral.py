"""SPIRAL: self-play on multi-turn games with role-conditioned advantage, from scratch (arXiv 2506.24119).

    python algos/spiral.py --config configs/spiral_kuhn_tiny.yaml
    accelerate launch algos/spiral.py --config configs/spiral_kuhn_tiny.yaml

One policy plays every seat of a PettingZoo game. The baseline of a return is the running mean of its game and seat.
Self-play alone collapses to a few lines of play, or cycles. These options help: a KL divergence from a magnet, which is
a reference that is fixed or updated every few steps (magnetic mirror descent, arXiv 2206.05825; R-NaD, arXiv
2206.15378); replies to the same prompt compared with each other (GiGPO, arXiv 2505.10978); games against earlier
policies; random openings (an environment setting); averaged weights (optim.ema_decay).
"""

from __future__ import annotations

import sys
from dataclasses import replace
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
    group_size: int = Field(1, ge=1, description="Games per start; with random openings they share the opening.")
    loss: Literal["clipped", "policy_gradient"] = Field("clipped", description="PPO's clipped loss, or -A log p.")
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

import torch
from accelerate.utils import gather_object
from torch import Tensor

from algos.data.batching import Batch
from algos.data.credit import same_prompt_advantages
from algos.data.episodes import Episode
from algos.data.rows import Row, to_rows
from algos.engines.hf import HFEngine
from algos.engines.opponent_pool import OpponentPool
from algos.errors import ConfigError
from algos.maths.advantages import RoleBaseline
from algos.maths.losses import clipped_surrogate, policy_gradient_loss
from algos.maths.seeds import opponents_rng
from algos.model.reference import Magnet, Reference
from algos.model.snapshot import Snapshot
from algos.rollout.environments import make_aec
from algos.rollout.self_play import SelfPlay
from algos.training import run as runs
from algos.training.metrics import policy_metrics
from algos.training.optimizers import annealed
from algos.training.run import Run
from algos.training.trainer import Trainer


def check(config: SpiralConfig) -> None:
    """Checks the settings before a model loads; raises ConfigError. ``rollout.episodes`` counts games."""
    spiral = config.spiral
    starts, left = divmod(config.rollout.episodes, spiral.group_size)
    if left:
        raise ConfigError(f"rollout.episodes {config.rollout.episodes} is not a multiple of spiral.group_size")
    runs.check_divides(starts, "starts (rollout.episodes / spiral.group_size)", spiral.minibatches, "spiral")
    if spiral.magnet_every and not spiral.kl_coef:
        raise ConfigError("spiral.magnet_every has an effect only with a magnet: set spiral.kl_coef")
    if spiral.loss == "policy_gradient" and spiral.epochs * spiral.minibatches > 1:
        raise ConfigError("spiral.loss policy_gradient allows one optimizer step per batch; for more use clipped")
    runs.check(config, make_aec)


def collect(
    config: SpiralConfig, run: Run, games: SelfPlay, pool: OpponentPool, step: int
) -> tuple[list[Episode], list[Episode]]:
    """Plays this process's games of a step; returns the policy's episodes, and those of the opponent pool."""
    size = config.spiral.group_size
    starts = [start for start in run.starts(step, config.rollout.episodes // size) for _ in range(size)]
    rng = opponents_rng(config.run.seed, step, run.accelerator.process_index)
    player = run.player(step)
    players = [[player] * games.seats(start.env) for start in starts]
    for held in players:
        chance, which, seat = rng.random(), rng.random(), int(rng.integers(len(held)))
        if pool.players and chance < config.spiral.opponent_pool_share:
            held[seat] = replace(player, engine=pool.players[int(which * len(pool.players))])
    with run.accelerator.autocast():
        played = games.play(starts, players)
    own: list[Episode] = []
    others: list[Episode] = []
    for held, sides in zip(players, played, strict=True):
        for side in sides:
            (own if held[side.player] is player else others).append(side)
    return own, others


def advantage(
    episodes: list[Episode], baseline: RoleBaseline, rank: int, level: str = "role"
) -> tuple[list[Row], dict[str, float]]:
    """Writes the role-conditioned advantage of each turn and makes the rows to train on.

    A = the return minus the running mean of its game and seat, for each token of the episode. All processes
    update the baselines with all episodes, in rank order, so these are equal. Episodes without turns do not count.
    """
    episodes = [episode for episode in episodes if episode.turns]
    everyone = gather_object([(rank, e.total_reward, (e.env_id, e.player)) for e in episodes])
    advantages = baseline.advantages([earned for _, earned, _ in everyone], [key for _, _, key in everyone])
    mine = [value for value, (owner, _, _) in zip(advantages, everyone, strict=True) if owner == rank]
    for episode, value in zip(episodes, mine, strict=True):
        for turn in episode.turns:
            turn.advantage = value
    if level == "same_prompt":
        same_prompt_advantages(episodes, gathered=True)
    rows = [row for episode in episodes for row in to_rows(episode.turns)]
    return rows, {f"baseline/{'_'.join(map(str, key))}": value for key, value in baseline.values.items()}


def batch_loss(
    config: SpiralConfig,
    batch: Batch,
    policy: torch.nn.Module,
    magnet: Reference | None,
    kl_coef: float,
    entropy_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each action token of the batch, and metrics to report; all ``[tokens]``."""
    spiral = config.spiral
    output = policy(batch, magnet.hidden(batch) if magnet else None, spiral.kl_direction)
    log_ratio = output.logprobs - batch.at_actions(batch.old_logprobs)
    advantages = batch.at_actions(batch.advantages)
    loss = policy_gradient_loss(output.logprobs, advantages)
    if spiral.loss == "clipped":
        loss = clipped_surrogate(log_ratio, advantages, spiral.clip_low, spiral.clip_high)
    metrics = policy_metrics(output, batch, log_ratio, spiral) | {"losses/policy": loss}
    if spiral.tis_cap:
        loss = loss * batch.at_actions(batch.tis_weights)
    loss = loss - entropy_coef * output.entropy
    if output.kl is not None:
        loss = loss + kl_coef * output.kl
    return loss, metrics


def update(config: SpiralConfig, rows: list[Row], trainer: Trainer, step: int) -> dict[str, float]:
    """Takes ``epochs`` x ``minibatches`` optimizer steps on ``rows``; returns metrics as means over tokens."""
    spiral, last = config.spiral, config.run.max_steps
    kl_coef = annealed(spiral.kl_coef, spiral.final_kl_coef, step, last)
    entropy_coef = annealed(spiral.entropy_coef, spiral.final_entropy_coef, step, last)
    return trainer.update(
        rows,
        lambda batch: batch_loss(config, batch, trainer.policy, trainer.reference, kl_coef, entropy_coef),
        spiral,
        step,
        merge=not spiral.tis_cap,
    )


def train(config: SpiralConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync; then log, evaluate, checkpoint."""
    spiral = config.spiral
    trainer = Trainer.start(config, resume)
    run = Run("spiral", config, sources, trainer)
    baseline = RoleBaseline(spiral.baseline_decay)
    sampler = HFEngine(trainer.model, trainer.chat.stop_ids, config.rollout.max_new_tokens)
    pool = OpponentPool(sampler, spiral.opponent_pool_size)
    run.register_for_checkpointing(baseline=baseline, pool=pool)
    magnet = Snapshot(trainer.model) if spiral.kl_coef else None
    if magnet:
        run.register_for_checkpointing(magnet=magnet)
        trainer.reference = Magnet(magnet, config.rollout.temperature)
    games = SelfPlay(config.rollout)
    for step in run.steps():
        with run.phase("collect"):
            episodes, others = collect(config, run, games, pool, step)
        with run.phase("update"):
            trainer.score_turns([episode.turns for episode in episodes], tis_cap=spiral.tis_cap)
            rows, metrics = advantage(episodes, baseline, trainer.accelerator.process_index, spiral.advantage_level)
            metrics |= update(config, rows, trainer, step)
        with run.phase("sync"):
            trainer.sync(step + 1)
            if magnet and spiral.magnet_every and (step + 1) % spiral.magnet_every == 0:
                magnet.update()
            if spiral.opponent_pool_share and (step + 1) % spiral.opponent_pool_every == 0:
                pool.take(step + 1)
        metrics["episode/against_opponent_pool"] = len(others) / max(len(episodes), 1)
        run.end_step(step, rows, metrics, episodes)
    run.finish()


def main(argv: list[str]) -> None:
    runs.run_script(SpiralConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
