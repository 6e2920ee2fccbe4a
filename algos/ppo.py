"""Proximal Policy Optimization with a value head on a text environment, from scratch.

    python algos/ppo.py --config configs/ppo_password_tiny.yaml
    accelerate launch algos/ppo.py --config configs/ppo_password_tiny.yaml

A critic learns what is still to come; a token (or a reply) is credited with how much better things went than the critic
had expected (GAE, arXiv 1506.02438), and the policy moves by the clipped loss (arXiv 1707.06347). The divergence from
the starting model may be a part of the reward, as in RLHF (arXiv 1909.08593), or of the loss.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Literal

from pydantic import Field

from algos.config.load import check_arguments
from algos.config.schema import PolicyUpdateSection, TrainConfig


class PpoSection(PolicyUpdateSection):
    critic: Literal["shared", "separate"] = Field(
        "shared", description="The value head reads the policy's hidden states, or those of its own backbone."
    )
    critic_lr: float | None = Field(
        None, gt=0, description="Learning rate of the critic's own weights; null: optim.lr."
    )
    gae_unit: Literal["token", "turn"] = Field(
        "token", description="One step of GAE: a sampled token, or a whole reply."
    )
    gamma: float = Field(1.0, ge=0, le=1, description="Discount per step of GAE.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of GAE: 0 trusts the critic, 1 the returns.")
    whiten: bool = Field(True, description="Scale a step's advantages to mean 0 and variance 1.")
    scale_rewards: bool = Field(False, description="Divide rewards by the running standard deviation of the returns.")
    value_clip: float | None = Field(0.2, gt=0, description="Maximum change of a value per step; null: no limit.")
    value_coef: float = Field(0.5, ge=0, description="Weight of the critic's loss.")
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy over the whole vocabulary.")
    kl_in: Literal["reward", "loss"] = Field("loss", description="Where the KL divergence is counted.")
    kl_target: float | None = Field(None, gt=0, description="Adapt kl_coef to keep this KL divergence; null: fixed.")
    kl_horizon: float = Field(10.0, gt=0, description="Steps in which an adapted kl_coef changes by at most a fifth.")
    epochs: int = Field(2, ge=1, description="Passes over each step's episodes.")
    minibatches: int = Field(4, ge=1, description="Optimizer steps per epoch.")


class PpoConfig(TrainConfig):
    ppo: PpoSection = PpoSection()


if __name__ == "__main__":
    check_arguments(PpoConfig)  # a usage error ends here, before torch is imported

import torch
from accelerate.utils import gather_object
from torch import Tensor

from algos.data.batching import Batch
from algos.data.episodes import Episode
from algos.data.rows import Row, to_rows
from algos.errors import ConfigError
from algos.maths.advantages import RunningScale, explained_variance, gae, whiten
from algos.maths.losses import AdaptiveKL, clipped_surrogate, clipped_value_loss, kl_estimate
from algos.model.critic import ActorCritic
from algos.model.reference import Divergence
from algos.rollout.environments import make_envs
from algos.rollout.single_agent import EpisodeRunner
from algos.training import learner as runs
from algos.training.learner import Learner
from algos.training.metrics import importance_metrics
from algos.training.optimizers import annealed
from algos.training.update import optimise


def check(config: PpoConfig) -> None:
    """Everything that can be known to be wrong before a model loads."""
    runs.check_divides(config.rollout.episodes, "episodes (rollout.episodes)", config.ppo.minibatches, "ppo")
    if config.ppo.kl_target and not config.ppo.kl_coef:
        raise ConfigError("ppo.kl_target steers ppo.kl_coef, which is 0: give it a value to begin with")
    if config.ppo.kl_direction == "forward" and in_reward(config.ppo):
        raise ConfigError("ppo.kl_direction forward is no reward of the tokens sampled: set ppo.kl_in loss")
    if config.ppo.kl_target and config.ppo.final_kl_coef is not None:
        raise ConfigError("ppo.kl_target and ppo.final_kl_coef both move ppo.kl_coef: leave one out")
    if config.ppo.critic == "separate" and config.model.quantize:
        raise ConfigError("ppo.critic separate copies the model to train it, and 4 bits cannot be trained: use shared")
    runs.check(config, lambda env: make_envs(env, 1))


def collect(config: PpoConfig, learner: Learner, rollout: EpisodeRunner, step: int) -> list[Episode]:
    """Plays this process's episodes of a step."""
    starts = learner.starts(step, config.rollout.episodes)
    with learner.accelerator.autocast():
        return rollout.play_starts(starts, config.rollout.temperature, learner.generator(step))


def advantage(
    config: PpoConfig, episodes: list[Episode], learner: Learner, scale: RunningScale, kl_coef: float
) -> tuple[list[Row], dict[str, float]]:
    """Rows to train, with their advantages and the critic's targets."""
    ppo = config.ppo
    rows = [to_rows(e.turns, [[0.0] * len(turn.action_ids) for turn in e.turns]) for e in episodes]
    flat = [row for of_episode in rows for row in of_episode]
    learner.annotate(flat, reference=in_reward(ppo), tis_cap=ppo.tis_cap, values=True)
    after = bootstrap(episodes, learner)
    if ppo.scale_rewards:
        scale.update(gather_object([e.total_reward for e in episodes]))
    estimates: list[Tensor] = []
    targets: list[Tensor] = []
    for episode, of_episode, value_after in zip(episodes, rows, after, strict=True):
        if not episode.turns:  # over before its first reply
            continue
        values, old = at_actions(of_episode, "values"), at_actions(of_episode, "old_logprobs")
        ends = torch.tensor([len(turn.action_ids) for turn in episode.turns]).cumsum(0)
        rewards = torch.zeros_like(values)
        rewards[ends - 1] = torch.tensor([turn.reward / scale.value for turn in episode.turns], dtype=values.dtype)
        if in_reward(ppo):
            rewards -= kl_coef * (old - at_actions(of_episode, "reference"))
        if ppo.gae_unit == "token":
            credit, target = gae(rewards, values, value_after, ppo.gamma, ppo.gae_lambda)
        else:  # a reply is one decision: its value is read where its prompt ends
            lengths = ends.diff(prepend=torch.zeros(1, dtype=ends.dtype))
            earned = torch.stack([part.sum() for part in rewards.split(lengths.tolist())])
            credit, target = gae(earned, values[ends - lengths], value_after, ppo.gamma, ppo.gae_lambda)
            credit, target = credit.repeat_interleave(lengths), target.repeat_interleave(lengths)
        estimates.append(credit)
        targets.append(target)
    everything = torch.cat([*estimates, torch.zeros(0)])
    if ppo.whiten:
        everything = whiten(everything, reduce=learner.summed)
    write_advantages(flat, everything, torch.cat([*targets, torch.zeros(0)]))
    for turn, part in zip(
        (turn for e in episodes for turn in e.turns),
        everything.split([len(turn.action_ids) for e in episodes for turn in e.turns]),
        strict=True,
    ):
        turn.advantage = part.mean().item()
    values, target = (torch.tensor(gather_object(at_actions(flat, name).tolist())) for name in ("values", "targets"))
    metrics = {"value/mean": values.sum().item() / max(len(values), 1)}
    return flat, metrics | {"losses/explained_variance": explained_variance(values, target)}


def in_reward(ppo: PpoSection) -> bool:
    """Whether each token pays for its divergence from the starting model."""
    return ppo.kl_coef > 0 and ppo.kl_in == "reward"


def bootstrap(episodes: list[Episode], learner: Learner) -> list[float]:
    """The critic's value of the state after each episode: 0 where the rules ended it."""
    cut = [Row(e.final_prompt_ids, [0], [True], [0.0], [0.0]) for e in episodes if e.truncated]
    learner.annotate(cut, values=True)
    values = iter(row.columns["values"][0] for row in cut)
    return [next(values) if episode.truncated else 0.0 for episode in episodes]


def at_actions(rows: list[Row], name: str) -> Tensor:
    """A column at the sampled tokens of ``rows``, in order, ``[tokens]``."""
    columns = [row.old_logprobs if name == "old_logprobs" else row.columns[name] for row in rows]
    return torch.tensor([v for row, c in zip(rows, columns) for v, mine in zip(c, row.action_mask) if mine])


def write_advantages(rows: list[Row], advantages: Tensor, targets: Tensor) -> None:
    """Writes what was computed for the sampled tokens of ``rows``, ``[tokens]``, into them."""
    counts = [row.action_tokens for row in rows]
    for row, advantage_part, target_part in zip(rows, advantages.split(counts), targets.split(counts), strict=True):
        row.advantages, row.columns["targets"] = row.spread(advantage_part.tolist()), row.spread(target_part.tolist())


def batch_loss(
    config: PpoConfig, batch: Batch, policy: torch.nn.Module, reference: Divergence | None, kl_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each action token of the batch, and metrics to report; all ``[tokens]``."""
    ppo = config.ppo
    logprobs, entropy, values, *kl = policy(batch, reference.hidden(batch) if reference else None, ppo.kl_direction)
    old = batch.actions("old_logprobs")
    ratio = (logprobs - old).exp()
    policy_loss = clipped_surrogate(logprobs - old, batch.actions("advantages"), ppo.clip_low, ppo.clip_high)
    value_loss = clipped_value_loss(values, batch.actions("values"), batch.actions("targets"), ppo.value_clip)
    clipped = (ratio < 1 - ppo.clip_low) | (ratio > 1 + ppo.clip_high)
    metrics = {"policy/entropy": entropy, "losses/approx_kl": kl_estimate(old, logprobs), "losses/clipfrac": clipped}
    metrics |= {"policy/ratio": ratio, "policy/engine_difference": (logprobs - old).abs()}
    metrics |= {"losses/policy": policy_loss, "losses/value": value_loss}
    if ppo.tis_cap:
        policy_loss = policy_loss * batch.actions("importance")
        metrics |= importance_metrics(batch)
    loss = policy_loss + ppo.value_coef * value_loss - ppo.entropy_coef * entropy
    for divergence in kl:
        metrics["policy/kl_to_reference"] = divergence
        if ppo.kl_in == "loss":
            loss = loss + kl_coef * divergence
    return loss, metrics


def update(config: PpoConfig, rows: list[Row], learner: Learner, step: int, kl_coef: float) -> dict[str, float]:
    """``epochs`` x ``minibatches`` optimizer steps on ``rows``; what it returns are means over tokens."""
    ppo, policy = config.ppo, learner.policy
    return optimise(
        rows,
        lambda batch: batch_loss(config, batch, policy, learner.reference, kl_coef),
        policy,
        learner.optimizer,
        learner.accelerator,
        config.optim,
        learner.shuffler(step),
        aggregation=ppo.aggregation,
        max_new_tokens=config.rollout.max_new_tokens,
        epochs=ppo.epochs,
        minibatches=ppo.minibatches,
        merge=False,
        columns=["values", "targets", *runs.columns(in_reward(ppo), ppo.tis_cap)],
    )


def train(config: PpoConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync; then log, evaluate, checkpoint."""
    ppo = config.ppo
    steered = AdaptiveKL(ppo.kl_coef, ppo.kl_target, ppo.kl_horizon) if ppo.kl_target else None
    scale = RunningScale()
    learner = Learner(
        "ppo",
        config,
        sources,
        resume,
        reference=ppo.kl_coef > 0,
        wrap=partial(ActorCritic, separate=ppo.critic == "separate"),
        critic_lr=ppo.critic_lr,
    )
    learner.register_for_checkpointing(return_scale=scale)
    if steered:
        learner.register_for_checkpointing(kl=steered)
    rollout = EpisodeRunner.of(config, [], learner.engine, learner.chat)
    for step in learner.steps():
        kl_coef = steered.coef if steered else annealed(ppo.kl_coef, ppo.final_kl_coef, step, config.run.max_steps)
        with learner.phase("collect"):
            episodes = collect(config, learner, rollout, step)
        with learner.phase("update"):
            rows, metrics = advantage(config, episodes, learner, scale, kl_coef)
            metrics |= update(config, rows, learner, step, kl_coef)
        if steered:
            metrics["policy/kl_coef"] = kl_coef
            if math.isfinite(divergence := metrics.get("policy/kl_to_reference", math.nan)):
                steered.update(divergence, 1)
        with learner.phase("sync"):
            learner.sync(step + 1)
        learner.end_step(step, episodes, rows, metrics)
    learner.finish()


def main(argv: list[str]) -> None:
    runs.run_script(PpoConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
