"""Group Relative Policy Optimization on a text environment, from scratch.

    python algos/grpo.py --config configs/grpo_tictactoe_tiny.yaml
    accelerate launch algos/grpo.py --config configs/grpo_tictactoe_tiny.yaml
    llm-gym train grpo --config configs/grpo_tictactoe_tiny.yaml --run.max_steps 20 --env.opponent minimax

A group is several episodes from one start, whose seed fixes the seat and everything random in the game. The advantage
of an episode is its return compared with the returns of its group. The update raises or lowers the probability of the
episode's reply tokens accordingly. DeepSeekMath, arXiv 2402.03300; the options come from Dr. GRPO (2503.20783), DAPO
(2503.14476), GSPO (2507.18071) and GiGPO (2505.10978).
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
        "group", description="What an episode is compared with: its group, or the step's episodes in its game and seat."
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
        "rows", description="prompts: rows with the same prompt stay in one minibatch, which computes the prompt once."
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
from algos.maths.losses import clipped_surrogate, sequence_log_ratio
from algos.model.reference import Reference
from algos.rollout.environments import make_aec, make_env
from algos.rollout.playing import GameRunner
from algos.rollout.self_play import SelfPlay
from algos.rollout.single_agent import EpisodeRunner
from algos.training import run as runs
from algos.training.metrics import policy_metrics
from algos.training.optimizers import annealed
from algos.training.run import Run
from algos.training.trainer import Trainer


def check(config: GrpoConfig) -> None:
    """Checks the settings before a model loads; raises ConfigError."""
    grpo = config.grpo
    groups, rest = divmod(config.rollout.episodes, grpo.group_size)
    if rest:
        raise ConfigError(
            f"rollout.episodes {config.rollout.episodes} is not a multiple of grpo.group_size {grpo.group_size}"
        )
    runs.check_divides(groups, "groups (rollout.episodes / grpo.group_size)", grpo.minibatches, "grpo")
    for name in ("advantage_level same_prompt", "baseline batch"):
        setting, _, value = name.partition(" ")
        if getattr(grpo, setting) == value and grpo.advantage == "std":
            raise ConfigError(f"grpo.{name} does not divide by a standard deviation: set grpo.advantage none")
    runs.check(config, make_aec if grpo.seats == "all" else make_env)


def collect(config: GrpoConfig, run: Run, games: GameRunner, step: int) -> list[list[Episode]]:
    """Plays this process's share of a step: groups of episodes from one start, in one seat."""
    size, rounds, accelerator = config.grpo.group_size, 1 + config.grpo.dynamic_sampling_rounds, run.accelerator
    starts = run.starts(step, config.rollout.episodes // size * rounds)
    missing = config.rollout.episodes // size // accelerator.num_processes
    player = run.player(step)
    groups: list[list[Episode]] = []
    for _ in range(rounds):
        now, starts = starts[:missing], starts[missing:]
        repeated = [start for start in now for _ in range(size)]
        with accelerator.autocast():
            played = games.play(repeated, [[player] * games.seats(start.env) for start in repeated])
        for first in range(0, len(played), size):
            seats = [list(seat) for seat in zip(*played[first : first + size], strict=True)]
            groups += seats
            missing -= any(len({episode.total_reward for episode in seat}) > 1 for seat in seats)
        if not missing:
            break
    for number, group in enumerate(groups):
        for episode in group:
            episode.group = number * accelerator.num_processes + accelerator.process_index
    return groups


def advantage(config: GrpoConfig, groups: list[list[Episode]]) -> tuple[list[Row], dict[str, float]]:
    """Writes the advantage of each turn and makes the rows to train on.

    ``filter_zero_std`` leaves out groups whose returns are all equal, and rows whose advantages are all 0.
    """
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
            episode_rows = to_rows(episode.turns)
            if grpo.filter_zero_std and (grpo.advantage_level == "same_prompt" or whole_batch):
                episode_rows = [row for row in episode_rows if any(row.advantages)]
            if varies or whole_batch or not grpo.filter_zero_std:
                rows += episode_rows
    return rows, {"groups/zero_std": 1.0 - varied.double().mean().item()}


def batch_loss(
    config: GrpoConfig, batch: Batch, policy: torch.nn.Module, reference: Reference | None, kl_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each action token of the batch, and metrics to report; all ``[tokens]``."""
    grpo = config.grpo
    output = policy(batch, reference.hidden(batch) if reference else None, grpo.kl_direction)
    old = batch.at_actions(batch.old_logprobs)
    log_ratio = output.logprobs - old
    if grpo.ratio == "turn":
        log_ratio = sequence_log_ratio(output.logprobs, old, *batch.turns())
    loss = clipped_surrogate(log_ratio, batch.at_actions(batch.advantages), grpo.clip_low, grpo.clip_high)
    metrics = policy_metrics(output, batch, log_ratio, grpo) | {"losses/policy": loss}
    if grpo.tis_cap:
        loss = loss * batch.at_actions(batch.tis_weights)
    if output.kl is not None:
        loss = loss + kl_coef * output.kl
    return loss, metrics


def update(config: GrpoConfig, rows: list[Row], trainer: Trainer, step: int) -> dict[str, float]:
    """Takes ``epochs`` x ``minibatches`` optimizer steps on ``rows``; returns metrics as means over tokens."""
    grpo = config.grpo
    kl_coef = annealed(grpo.kl_coef, grpo.final_kl_coef, step, config.run.max_steps)
    return trainer.update(
        rows,
        lambda batch: batch_loss(config, batch, trainer.policy, trainer.reference, kl_coef),
        grpo,
        step,
        keep_prompts=grpo.shuffle == "prompts",
        merge=not grpo.tis_cap,
    )


def train(config: GrpoConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync; then log, evaluate, checkpoint."""
    trainer = Trainer.start(config, resume, reference=config.grpo.kl_coef > 0)
    run = Run("grpo", config, sources, trainer)
    games: GameRunner = (SelfPlay if config.grpo.seats == "all" else EpisodeRunner)(config.rollout)
    for step in run.steps():
        with run.phase("collect"):
            groups = collect(config, run, games, step)
            episodes = [episode for group in groups for episode in group]
        with run.phase("update"):
            trainer.score_turns([episode.turns for episode in episodes], tis_cap=config.grpo.tis_cap)
            rows, metrics = advantage(config, groups)
            metrics |= update(config, rows, trainer, step)
        with run.phase("sync"):
            trainer.sync(step + 1)
        run.end_step(step, rows, metrics, episodes)
    run.finish()


def main(argv: list[str]) -> None:
    runs.run_script(GrpoConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
