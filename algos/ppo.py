"""Proximal Policy Optimization with a value head on a text environment, from scratch.

    python algos/ppo.py --config configs/ppo_password_tiny.yaml
    accelerate launch algos/ppo.py --config configs/ppo_password_tiny.yaml

A critic learns the expected return. The advantage of a token (or a reply) estimates how much higher the return is than
the critic expected (GAE, arXiv 1506.02438). The policy is updated with the clipped loss (arXiv 1707.06347). The KL
divergence from the starting model is part of the reward, as in RLHF (arXiv 1909.08593), or of the loss.
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
        "shared", description="The value head reads the hidden states of the policy, or of its own backbone."
    )
    critic_lr: float | None = Field(None, gt=0, description="Learning rate of the critic; null: optim.lr.")
    gae_unit: Literal["token", "turn"] = Field("token", description="One step of GAE: a token, or a whole reply.")
    gamma: float = Field(1.0, ge=0, le=1, description="Discount per step of GAE.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of GAE: 0 trusts the critic, 1 the returns.")
    whiten: bool = Field(True, description="Scale a step's advantages to mean 0 and variance 1.")
    scale_rewards: bool = Field(False, description="Divide rewards by the running standard deviation of the returns.")
    value_clip: float | None = Field(0.2, gt=0, description="Maximum change of a value per step; null: no limit.")
    value_coef: float = Field(0.5, ge=0, description="Weight of the critic's loss.")
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy over the whole vocabulary.")
    kl_in: Literal["reward", "loss"] = Field("loss", description="Add the KL divergence to the reward or to the loss.")
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
from algos.data.episodes import Episode, Turn
from algos.data.rows import Row, to_rows
from algos.errors import ConfigError
from algos.maths.advantages import RunningScale, explained_variance, gae, whiten
from algos.maths.losses import AdaptiveKL, clipped_surrogate, clipped_value_loss
from algos.model.critic import ActorCritic
from algos.model.reference import Reference
from algos.rollout.environments import make_env
from algos.rollout.single_agent import EpisodeRunner
from algos.training import run as runs
from algos.training.metrics import policy_metrics
from algos.training.optimizers import annealed
from algos.training.run import Run
from algos.training.trainer import Trainer, write_column


def check(config: PpoConfig) -> None:
    """Checks the settings before a model loads; raises ConfigError."""
    ppo = config.ppo
    runs.check_divides(config.rollout.episodes, "episodes (rollout.episodes)", ppo.minibatches, "ppo")
    if ppo.kl_target and not ppo.kl_coef:
        raise ConfigError("ppo.kl_target adapts ppo.kl_coef, which is 0: set ppo.kl_coef")
    if ppo.kl_direction == "forward" and in_reward(ppo):
        raise ConfigError("ppo.kl_direction forward cannot be a reward of the sampled tokens: set ppo.kl_in loss")
    if ppo.kl_target and ppo.final_kl_coef is not None:
        raise ConfigError("ppo.kl_target and ppo.final_kl_coef both change ppo.kl_coef: set only one")
    if ppo.critic == "separate" and config.model.quantize:
        raise ConfigError("ppo.critic separate trains a copy of the model; 4-bit weights cannot be trained: use shared")
    runs.check(config, make_env)


def collect(config: PpoConfig, run: Run, games: EpisodeRunner, step: int) -> list[Episode]:
    """Plays this process's episodes of a step."""
    starts, player = run.starts(step, config.rollout.episodes), run.player(step)
    with run.accelerator.autocast():
        return [episode for (episode,) in games.play(starts, [[player]] * len(starts))]


def advantage(
    config: PpoConfig, episodes: list[Episode], trainer: Trainer, scale: RunningScale, kl_coef: float
) -> tuple[list[Row], dict[str, float]]:
    """Writes advantages and value targets into the turns and makes the rows to train on."""
    ppo = config.ppo
    trainer.score_turns([e.turns for e in episodes], reference=in_reward(ppo), tis_cap=ppo.tis_cap, values=True)
    after = bootstrap(episodes, trainer)
    if ppo.scale_rewards:
        scale.update(gather_object([e.total_reward for e in episodes]))
    estimates: list[Tensor] = [torch.zeros(0)]  # [tokens] of each episode; whitening is over all episodes
    targets: list[Tensor] = [torch.zeros(0)]
    for episode, value_after in zip(episodes, after, strict=True):
        if episode.turns:  # an episode without turns ended before the first reply
            estimate, target = episode_advantages(ppo, episode.turns, value_after, scale.value, kl_coef)
            estimates.append(estimate)
            targets.append(target)
    advantages = torch.cat(estimates)
    if ppo.whiten:
        advantages = whiten(advantages, reduce=trainer.summed)
    turns = [turn for episode in episodes for turn in episode.turns]
    write_column(turns, "advantages", advantages)
    write_column(turns, "value_targets", torch.cat(targets))
    values, goals = (torch.tensor(gather_object(column(turns, name).tolist())) for name in ("values", "value_targets"))
    metrics = {"value/mean": values.sum().item() / max(len(values), 1)}
    metrics["losses/explained_variance"] = explained_variance(values, goals)
    return [row for episode in episodes for row in to_rows(episode.turns)], metrics


def episode_advantages(
    ppo: PpoSection, turns: list[Turn], value_after: float, scale: float, kl_coef: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets of an episode's action tokens, both ``[tokens]``.

    Observation tokens are left out: each one between two turns would multiply the earlier turn's credit by
    gamma * lambda. The reward of a turn is at its last token.

    Args:
        value_after: The critic's estimate of the state after the episode; 0 if the rules ended it.
        scale: Rewards are divided by it.
    """
    values = column(turns, "values")
    lengths = torch.tensor([len(turn.action_ids) for turn in turns])
    ends = lengths.cumsum(0)
    rewards = torch.zeros_like(values)
    rewards[ends - 1] = torch.tensor([turn.reward / scale for turn in turns], dtype=values.dtype)
    if in_reward(ppo):
        rewards -= kl_coef * (column(turns, "old_logprobs") - column(turns, "reference_logprobs"))
    if ppo.gae_unit == "token":
        return gae(rewards, values, value_after, ppo.gamma, ppo.gae_lambda)
    # GAE over replies: [turns]. The value of a reply is the one before its first token, at the end of its prompt.
    earned = torch.stack([part.sum() for part in rewards.split(lengths.tolist())])
    estimate, target = gae(earned, values[ends - lengths], value_after, ppo.gamma, ppo.gae_lambda)
    return estimate.repeat_interleave(lengths), target.repeat_interleave(lengths)


def in_reward(ppo: PpoSection) -> bool:
    """Whether the reward of each token includes its KL divergence from the starting model."""
    return ppo.kl_coef > 0 and ppo.kl_in == "reward"


def bootstrap(episodes: list[Episode], trainer: Trainer) -> list[float]:
    """The critic's value of the state after each episode; 0 if the rules ended it."""
    cut = [Turn(episode.final_prompt_ids, [0], [0.0]) for episode in episodes if episode.truncated]
    trainer.score_turns([[turn] for turn in cut], values=True)
    values = iter(turn.values[0] for turn in cut)
    return [next(values) if episode.truncated else 0.0 for episode in episodes]


def column(turns: list[Turn], name: str) -> Tensor:
    """A column of the turns' action tokens, in order, ``[tokens]``."""
    return torch.tensor([value for turn in turns for value in getattr(turn, name)])


def batch_loss(
    config: PpoConfig, batch: Batch, policy: torch.nn.Module, reference: Reference | None, kl_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each action token of the batch, and metrics to report; all ``[tokens]``."""
    ppo = config.ppo
    output = policy(batch, reference.hidden(batch) if reference else None, ppo.kl_direction)
    log_ratio = output.logprobs - batch.at_actions(batch.old_logprobs)
    policy_loss = clipped_surrogate(log_ratio, batch.at_actions(batch.advantages), ppo.clip_low, ppo.clip_high)
    old_values, targets = batch.at_actions(batch.values), batch.at_actions(batch.value_targets)
    value_loss = clipped_value_loss(output.values, old_values, targets, ppo.value_clip)
    metrics = policy_metrics(output, batch, log_ratio, ppo)
    metrics |= {"losses/policy": policy_loss, "losses/value": value_loss}
    if ppo.tis_cap:
        policy_loss = policy_loss * batch.at_actions(batch.tis_weights)
    loss = policy_loss + ppo.value_coef * value_loss - ppo.entropy_coef * output.entropy
    if output.kl is not None and ppo.kl_in == "loss":
        loss = loss + kl_coef * output.kl
    return loss, metrics


def update(config: PpoConfig, rows: list[Row], trainer: Trainer, step: int, kl_coef: float) -> dict[str, float]:
    """Takes ``epochs`` x ``minibatches`` optimizer steps on ``rows``; returns metrics as means over tokens."""

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return batch_loss(config, batch, trainer.policy, trainer.reference, kl_coef)

    return trainer.update(rows, loss, config.ppo, step, merge=False)


def train(config: PpoConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync; then log, evaluate, checkpoint."""
    ppo = config.ppo
    wrap = partial(ActorCritic, separate=ppo.critic == "separate")
    trainer = Trainer.start(config, resume, reference=ppo.kl_coef > 0, wrap=wrap, critic_lr=ppo.critic_lr)
    run = Run("ppo", config, sources, trainer)
    scale = RunningScale()
    run.register_for_checkpointing(return_scale=scale)
    adaptive = AdaptiveKL(ppo.kl_coef, ppo.kl_target, ppo.kl_horizon) if ppo.kl_target else None
    if adaptive:
        run.register_for_checkpointing(kl=adaptive)
    games = EpisodeRunner(config.rollout)
    for step in run.steps():
        kl_coef = adaptive.coef if adaptive else annealed(ppo.kl_coef, ppo.final_kl_coef, step, config.run.max_steps)
        with run.phase("collect"):
            episodes = collect(config, run, games, step)
        with run.phase("update"):
            rows, metrics = advantage(config, episodes, trainer, scale, kl_coef)
            metrics |= update(config, rows, trainer, step, kl_coef)
        if adaptive:
            metrics["policy/kl_coef"] = kl_coef
            if math.isfinite(divergence := metrics.get("policy/kl_to_reference", math.nan)):
                adaptive.update(divergence, 1)
        with run.phase("sync"):
            trainer.sync(step + 1)
        run.end_step(step, rows, metrics, episodes)
    run.finish()


def main(argv: list[str]) -> None:
    runs.run_script(PpoConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
