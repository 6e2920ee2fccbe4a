"""Group Relative Policy Optimization on a text environment, from scratch.

    python algos/grpo.py --config configs/grpo_tictactoe_tiny.yaml
    accelerate launch algos/grpo.py --config configs/grpo_tictactoe_tiny.yaml
    llm-gym train grpo --config configs/grpo_tictactoe_tiny.yaml --run.max_steps 20 --env.opponent minimax

Several episodes are played from each start (a seed fixes the seat and all else that is random in a game). An episode
is better or worse than the others of its group; each token of its replies is made likelier or less likely by that much.
DeepSeekMath, arXiv 2402.03300; the options come from Dr. GRPO (2503.20783), DAPO (2503.14476), GSPO (2507.18071) and
GiGPO (2505.10978).
"""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field

from algos.config.load import check_arguments
from algos.config.schema import PolicyUpdateSection, TrainConfig


class GrpoSection(PolicyUpdateSection):
    group_size: int = Field(8, ge=2, description="Episodes per start.")
    seats: Literal["one", "all"] = Field(
        "one", description="all: the policy plays every seat, and a group compares the episodes of one seat."
    )
    dynamic_sampling_rounds: int = Field(
        0, ge=0, description="Rounds in which groups with equal returns are replaced by newly sampled ones (DAPO)."
    )
    baseline: Literal["group", "batch"] = Field(
        "group", description="What an episode is compared with: its group, or all of the step's in its game and seat."
    )
    advantage: Literal["std", "none"] = Field(
        "std", description="Divide by the group's standard deviation (GRPO), or not (Dr. GRPO)."
    )
    advantage_level: Literal["episode", "same_prompt"] = Field(
        "episode", description="same_prompt: a reply is compared with the replies to the same prompt (GiGPO)."
    )
    ratio: Literal["token", "turn"] = Field("token", description="turn: one importance ratio per reply (GSPO).")
    clip_high: float = Field(
        0.28, gt=0, description="The importance ratio is clipped above at 1 + clip_high (clip-higher, DAPO)."
    )
    filter_zero_std: bool = Field(
        True, description="Leave out groups with equal returns (DAPO); false: kl_coef still acts on them."
    )
    shuffle: Literal["rows", "prompts"] = Field(
        "rows", description="prompts: replies to the same prompt stay in one minibatch, which computes it once."
    )


class GrpoConfig(TrainConfig):
    grpo: GrpoSection = GrpoSection()


if __name__ == "__main__":
    check_arguments(GrpoConfig)  # a usage error ends here, before torch is imported

import torch
from torch import Tensor

from algos.data.batching import Batch
from algos.data.credit import same_prompt_advantages, seat_advantages
from algos.data.episodes import Episode
from algos.data.rows import Row, to_rows
from algos.errors import ConfigError
from algos.maths.advantages import group_relative, nonzero_std
from algos.maths.losses import clipped_surrogate, kl_estimate, sequence_log_ratio
from algos.model.reference import Divergence
from algos.rollout.environments import make_aec, make_envs
from algos.rollout.self_play import SelfPlay
from algos.rollout.single_agent import EpisodeRunner
from algos.training import learner as runs
from algos.training.learner import Learner
from algos.training.metrics import importance_metrics
from algos.training.optimizers import annealed
from algos.training.update import optimise


def check(config: GrpoConfig) -> None:
    """Everything that can be known to be wrong before a model loads."""
    groups, rest = divmod(config.rollout.episodes, config.grpo.group_size)
    if rest:
        raise ConfigError(
            f"rollout.episodes {config.rollout.episodes} is no multiple of grpo.group_size {config.grpo.group_size}"
        )
    runs.check_divides(groups, "groups (rollout.episodes / grpo.group_size)", config.grpo.minibatches, "grpo")
    for name, chosen in (
        ("advantage_level same_prompt", config.grpo.advantage_level == "same_prompt"),
        ("baseline batch", config.grpo.baseline == "batch"),
    ):
        if chosen and config.grpo.advantage == "std":
            raise ConfigError(f"grpo.{name} compares returns as they are: set grpo.advantage none")
    runs.check(config, make_aec if config.grpo.seats == "all" else lambda env: make_envs(env, 1))


def collect(config: GrpoConfig, learner: Learner, games: EpisodeRunner | SelfPlay, step: int) -> list[list[Episode]]:
    """Plays this process's share of a step: groups of episodes from one start, in one seat."""
    size, dynamic_sampling_rounds = config.grpo.group_size, config.grpo.dynamic_sampling_rounds
    wanted = config.rollout.episodes // size // learner.accelerator.num_processes
    starts = learner.starts(step, config.rollout.episodes // size * (1 + dynamic_sampling_rounds))
    generator = learner.generator(step)
    groups: list[list[Episode]] = []
    missing = wanted
    for _ in range(1 + dynamic_sampling_rounds):
        starts = [start for start in starts[:missing] for _ in range(size)]
        starts = starts[missing:]
        with learner.accelerator.autocast():
            if isinstance(games, SelfPlay):
                played = games.play(starts, learner.engine, config.rollout.temperature, generator, size)
            else:
                played = [[e] for e in games.play_starts(starts, config.rollout.temperature, generator, size)]
        for first in range(0, len(played), size):
            seats = [list(seat) for seat in zip(*played[first : first + size], strict=True)]
            groups += seats
            missing -= any(len({episode.total_reward for episode in seat}) > 1 for seat in seats)
        if not missing:
            break
    for number, group in enumerate(groups):
        for episode in group:
            episode.group = number * learner.accelerator.num_processes + learner.accelerator.process_index
    return groups


def advantage(config: GrpoConfig, groups: list[list[Episode]]) -> tuple[list[Row], dict[str, float]]:
    """Gives each turn its advantage; the rows to train are those of groups that tell anything, and of turns that do."""
    grpo, whole_batch = config.grpo, config.grpo.baseline == "batch"
    returns = torch.tensor([[e.total_reward for e in group] for group in groups], dtype=torch.float64)
    varied = nonzero_std(returns)
    compared = groups
    if whole_batch:
        compared = [[episode for group in groups for episode in group]]
        seat_advantages(compared[0])
    else:
        for group, advantages in zip(groups, group_relative(returns, grpo.advantage).tolist(), strict=True):
            for episode, value in zip(group, advantages, strict=True):
                for turn in episode.turns:
                    turn.advantage = value
    if grpo.advantage_level == "same_prompt":
        for episodes in compared:
            same_prompt_advantages(episodes, gathered=whole_batch)
    rows: list[Row] = []
    for group, varies in zip(groups, varied.tolist(), strict=True):
        for episode in group:
            episode_rows = to_rows(episode.turns, [[turn.advantage] * len(turn.action_ids) for turn in episode.turns])
            if grpo.filter_zero_std and (grpo.advantage_level == "same_prompt" or whole_batch):
                episode_rows = [row for row in episode_rows if any(row.advantages)]
            if varies or whole_batch or not grpo.filter_zero_std:
                rows += episode_rows
    return rows, {"groups/zero_std": 1.0 - varied.double().mean().item()}


def batch_loss(
    config: GrpoConfig, batch: Batch, policy: torch.nn.Module, reference: Divergence | None, kl_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each action token of the batch, and metrics to report; all ``[tokens]``."""
    grpo = config.grpo
    logprobs, entropy, *kl = policy(batch, reference.hidden(batch) if reference else None, grpo.kl_direction)
    old = batch.actions("old_logprobs")
    log_ratio = logprobs - old
    if grpo.ratio == "turn":
        log_ratio = sequence_log_ratio(logprobs, old, *batch.turns())
    loss = clipped_surrogate(log_ratio, batch.actions("advantages"), grpo.clip_low, grpo.clip_high)
    ratio = log_ratio.exp()
    clipped = (ratio < 1 - grpo.clip_low) | (ratio > 1 + grpo.clip_high)
    metrics = {"policy/entropy": entropy, "losses/approx_kl": kl_estimate(old, logprobs), "losses/clipfrac": clipped}
    metrics |= {"policy/ratio": ratio, "policy/engine_difference": (logprobs - old).abs(), "losses/policy": loss}
    if grpo.tis_cap:
        loss = loss * batch.actions("importance")
        metrics |= importance_metrics(batch)
    for divergence in kl:
        loss = loss + kl_coef * divergence
        metrics["policy/kl_to_reference"] = divergence
    return loss, metrics


def update(config: GrpoConfig, rows: list[Row], learner: Learner, step: int) -> dict[str, float]:
    """``epochs`` x ``minibatches`` optimizer steps on ``rows``; what it returns are means over tokens."""
    grpo, policy = config.grpo, learner.policy
    kl_coef = annealed(grpo.kl_coef, grpo.final_kl_coef, step, config.run.max_steps)
    learner.annotate(rows, tis_cap=grpo.tis_cap)
    return optimise(
        rows,
        lambda batch: batch_loss(config, batch, policy, learner.reference, kl_coef),
        policy,
        learner.optimizer,
        learner.accelerator,
        config.optim,
        learner.shuffler(step),
        aggregation=grpo.aggregation,
        max_new_tokens=config.rollout.max_new_tokens,
        epochs=grpo.epochs,
        minibatches=grpo.minibatches,
        keep_prompts=grpo.shuffle == "prompts",
        merge=not grpo.tis_cap,
        columns=runs.columns(False, grpo.tis_cap),
    )


def train(config: GrpoConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync; then log, evaluate, checkpoint."""
    learner = Learner("grpo", config, sources, resume, reference=config.grpo.kl_coef > 0)
    games: EpisodeRunner | SelfPlay = EpisodeRunner.of(config, [], learner.engine, learner.chat)
    if config.grpo.seats == "all":
        games = SelfPlay(config, learner.chat)
    for step in learner.steps():
        with learner.phase("collect"):
            groups = collect(config, learner, games, step)
        with learner.phase("update"):
            rows, metrics = advantage(config, groups)
            metrics |= update(config, rows, learner, step)
        with learner.phase("sync"):
            learner.sync(step + 1)
        learner.end_step(step, [episode for group in groups for episode in group], rows, metrics)
    learner.finish()


def main(argv: list[str]) -> None:
    runs.run_script(GrpoConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
