"""Group Relative Policy Optimization on a text environment, from scratch.

    python algos/grpo.py --config configs/grpo_tictactoe_tiny.yaml
    accelerate launch algos/grpo.py --config configs/grpo_tictactoe_tiny.yaml
    llm-gym train grpo --config configs/grpo_tictactoe_tiny.yaml --run.max_steps 20 --env.opponent minimax

Several episodes are played from each start (a seed fixes the seat and all else that is random in a game). An episode
is better or worse than the others of its group; each token of its replies is made likelier or less likely by that much.
DeepSeekMath, arXiv 2402.03300; the options come from Dr. GRPO (2503.20783) and DAPO (2503.14476).
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import Field
from tqdm import tqdm

from algos.maths.advantages import group_relative, has_signal, same_state
from algos.maths.losses import Aggregation, clipped_policy_loss, kl_estimate, kl_loss, token_weights
from algos.model.forward import Policy
from algos.model.load import check_model, load_model
from algos.rollout.batching import Batch, merge_equal, micro_batches
from algos.rollout.chat import Chat
from algos.rollout.hf import HFEngine
from algos.rollout.play import Rollout, make_envs
from algos.rollout.records import Episode, Row, to_rows
from algos.run import checkpoint
from algos.run.config import Config, ConfigError, OptimSection, Section, die, load
from algos.run.evaluate import evaluate
from algos.run.interrupt import StopSignal
from algos.run.report import last_line, write_report
from algos.run.tracking import Tracker, claim_folder
from algos.sft import SftSection, tiny_model


class GrpoSection(Section):
    group_size: int = Field(8, ge=2, description="Episodes from one start.")
    advantage: Literal["std", "none"] = Field("std", description="Divide by the group's deviation, or not (Dr. GRPO).")
    credit: Literal["episode", "turn"] = Field(
        "episode", description="turn: a reply is compared with the group's replies to the same prompt (GiGPO)."
    )
    aggregation: Aggregation = Field("token", description="token (DAPO), sequence (GRPO) or constant (Dr. GRPO).")
    clip_low: float = Field(0.2, gt=0, lt=1, description="The ratio is clipped below at 1 - clip_low.")
    clip_high: float = Field(0.28, gt=0, description="And above at 1 + clip_high (clip-higher, DAPO).")
    kl_coef: float = Field(0.0, ge=0, description="Weight of the divergence from the starting model; 0: no reference.")
    final_kl_coef: float | None = Field(None, ge=0, description="The weight falls linearly to this; None: it stays.")
    drop_no_signal: bool = Field(
        True, description="Leave out what tells nothing (DAPO). False: it is still held near the reference by kl_coef."
    )
    epochs: int = Field(1, ge=1, description="Passes over each step's episodes.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps a pass.")


class GrpoConfig(Config):
    optim: OptimSection = OptimSection()
    grpo: GrpoSection = GrpoSection()
    sft: SftSection = SftSection()  # how `model.path: tiny` is warm-started


def check(config: GrpoConfig) -> None:
    """Everything that can be known to be wrong before a model loads."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    groups, rest = divmod(config.rollout.episodes, config.grpo.group_size)
    if rest:
        raise ConfigError(
            f"rollout.episodes {config.rollout.episodes} is no multiple of grpo.group_size {config.grpo.group_size}"
        )
    if groups % (processes * config.grpo.minibatches):
        raise ConfigError(
            f"{groups} groups (rollout.episodes / grpo.group_size) do not divide over "
            f"{processes} process(es) x {config.grpo.minibatches} grpo.minibatches"
        )
    if config.grpo.credit == "turn" and config.grpo.advantage == "std":
        raise ConfigError("grpo.credit turn compares returns as they are: set grpo.advantage none")
    check_model(config.model.path)
    make_envs(config.env, 1)
    make_envs(config.env, 1, **config.eval.env)


def collect(config: GrpoConfig, step: int, rollout: Rollout, accelerator: Accelerator) -> list[Episode]:
    """Plays this process's groups of a step. Seeds are a function of the step: a resumed run meets the same games."""
    rank, size = accelerator.process_index, config.grpo.group_size
    groups = config.rollout.episodes // size // accelerator.num_processes
    first = (config.run.seed + 1) * 10**9 + (step * accelerator.num_processes + rank) * groups
    sampling = int(np.random.SeedSequence([config.run.seed, step, rank]).generate_state(1)[0])
    generator = torch.Generator(accelerator.device).manual_seed(sampling)
    seeds = [first + i // size for i in range(groups * size)]
    with accelerator.autocast():
        return rollout.play(seeds, config.rollout.temperature, generator, group_size=size)


def advantage(config: GrpoConfig, episodes: list[Episode]) -> tuple[list[float], list[Row], dict[str, float]]:
    """One advantage an episode, and the rows to train: those of groups that tell anything, and of turns that do."""
    returns = torch.tensor([e.total_reward for e in episodes], dtype=torch.float64).view(-1, config.grpo.group_size)
    advantages = group_relative(returns, config.grpo.advantage).flatten().tolist()
    per_turn = [[a] * len(episode.turns) for episode, a in zip(episodes, advantages, strict=True)]
    if config.grpo.credit == "turn":
        per_turn = turn_credit(episodes, per_turn)
    telling = has_signal(returns)
    rows: list[Row] = []
    for i, (episode, credits) in enumerate(zip(episodes, per_turn, strict=True)):
        tokens = [[credit] * len(turn.action_ids) for credit, turn in zip(credits, episode.turns, strict=True)]
        episode_rows = to_rows(episode.turns, tokens)
        if config.grpo.drop_no_signal and config.grpo.credit == "turn":
            episode_rows = [row for row in episode_rows if any(row.advantages)]
        if telling[i // config.grpo.group_size] or not config.grpo.drop_no_signal:
            rows += episode_rows
    return advantages, rows, {"groups/no_signal": 1.0 - telling.double().mean().item()}


def turn_credit(episodes: list[Episode], per_turn: list[list[float]]) -> list[list[float]]:
    """Compares a turn with its group's turns that answered the same prompt; one without company keeps its own."""
    numbers: dict[Any, int] = {}
    states = [numbers.setdefault((e.group, *t.prompt_ids), len(numbers)) for e in episodes for t in e.turns]
    to_go = [float(sum(t.reward for t in e.turns[i:])) for e in episodes for i in range(len(e.turns))]
    credit, company = same_state(torch.tensor(to_go, dtype=torch.float64), torch.tensor(states))
    mixed = iter(zip(credit.tolist(), company.tolist(), strict=True))
    return [[a if n > 1 else old for old in olds for a, n in [next(mixed)]] for olds in per_turn]


def batch_loss(
    config: GrpoConfig, batch: Batch, policy: torch.nn.Module, reference: Policy | None, kl_coef: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """This batch's part of the loss, and per-token figures to report, each ``[tokens]``."""
    grpo = config.grpo
    logprobs, entropy = policy(batch)
    old, weights = batch.actions("old_logprobs"), batch.action_weights()
    per_token = clipped_policy_loss(logprobs, old, batch.actions("advantages"), grpo.clip_low, grpo.clip_high)
    ratio = (logprobs - old).exp().detach()
    clipped = (ratio < 1 - grpo.clip_low) | (ratio > 1 + grpo.clip_high)
    figures = {"policy/entropy": entropy, "losses/approx_kl": kl_estimate(old, logprobs), "losses/clipfrac": clipped}
    figures |= {"policy/ratio": ratio, "policy/logprob_difference": (logprobs - old).abs()}
    if reference is not None:
        with torch.no_grad():
            ref_logprobs, _ = reference(batch)
        per_token = per_token + kl_coef * kl_loss(logprobs, ref_logprobs)
        figures["policy/kl_to_reference"] = kl_estimate(logprobs, ref_logprobs)
    return (per_token * weights).sum(), {name: figure.detach().double() for name, figure in figures.items()}


def update(
    config: GrpoConfig,
    rows: list[Row],
    policy: torch.nn.Module,
    reference: Policy | None,
    optimizer: Any,
    accelerator: Accelerator,
    step: int,
) -> dict[str, float]:
    """``epochs`` x ``minibatches`` optimizer steps on ``rows``; what it returns are means over tokens."""
    rng = np.random.default_rng([config.run.seed, step, accelerator.process_index])
    rate = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    kl_coef, final = config.grpo.kl_coef, config.grpo.final_kl_coef
    if final is not None:
        kl_coef += (final - kl_coef) * min(step / max(config.run.max_steps - 1, 1), 1.0)
    sums: defaultdict[str, float] = defaultdict(float)
    losses, norms = [0.0], [0.0]
    for _ in range(config.grpo.epochs):
        order = rng.permutation(len(rows))
        for part in np.array_split(order, config.grpo.minibatches):
            chosen = [rows[i] for i in part] or [IDLE]
            counts = torch.tensor([row.action_tokens for row in chosen])
            local = [float(counts.sum()), float(len(chosen))] if len(part) else [0.0, 0.0]
            tokens, sequences = accelerator.reduce(torch.tensor(local, device=accelerator.device), "sum").tolist()
            if tokens == 0:  # no group of any process tells anything
                continue
            weights = token_weights(counts, config.grpo.aggregation, tokens, sequences, config.rollout.max_new_tokens)
            for row, weight in zip(chosen, weights.tolist(), strict=True):
                row.weight = weight
            batches = list(micro_batches(merge_equal(chosen), config.optim.micro_batch, accelerator.device))
            total = 0.0
            for number, batch in enumerate(batches, 1):
                with contextlib.nullcontext() if number == len(batches) else accelerator.no_sync(policy):
                    loss, figures = batch_loss(config, batch, policy, reference, kl_coef)
                    # DistributedDataParallel averages over processes; the loss is the sum.
                    accelerator.backward(loss * accelerator.num_processes)
                total += loss.item()
                for name, figure in figures.items():
                    sums[name] += float((figure * batch.action_weights()).sum())
                sums["weight"] += float(batch.action_weights().sum())
            norms.append(float(accelerator.clip_grad_norm_(policy.parameters(), config.optim.max_grad_norm)))
            losses.append(total)
            optimizer.step()
            optimizer.zero_grad()
    names = [name for name in FIGURES if reference is not None or name != "policy/kl_to_reference"]
    local_sums = torch.tensor([*(sums[name] for name in names), losses[-1], sums["weight"]], device=accelerator.device)
    *totals, policy_loss, weight = accelerator.reduce(local_sums, "sum").tolist()
    metrics = {name: total / max(weight, 1e-9) for name, total in zip(names, totals, strict=True)}
    metrics["losses/policy"] = policy_loss
    return metrics | {"optim/grad_norm": norms[-1], "optim/lr": rate}


FIGURES = (
    *("losses/approx_kl", "losses/clipfrac", "policy/entropy", "policy/ratio"),
    *("policy/logprob_difference", "policy/kl_to_reference"),
)
"""What :func:`update` reports beside the loss: means over the tokens of all processes, weighed as in the loss."""
IDLE = Row([0], [0], [True], [0.0], [0.0], weight=0.0)
"""What a process without rows runs, so that all processes meet in the same collective calls."""


def learning_rate(config: GrpoConfig, step: int) -> float:
    """Linear warm-up to ``lr``, then constant, or linear or cosine down to ``final_lr`` at the last step."""
    optim, last = config.optim, max(config.run.max_steps - 1, 1)
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = min((step - optim.warmup_steps) / max(last - optim.warmup_steps, 1), 1.0)
    fall = {"constant": 0.0, "linear": done, "cosine": 0.5 - 0.5 * math.cos(math.pi * done)}[optim.schedule]
    return optim.lr + fall * (optim.final_lr - optim.lr) if fall else optim.lr


def train(config: GrpoConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: collect, advantage, update, sync, log, evaluate, checkpoint."""
    started = time.monotonic()
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[config.model.dtype]
    accelerator = Accelerator(
        mixed_precision=precision, log_with=config.run.trackers or None, project_dir=config.run.dir / "tensorboard"
    )
    newest = checkpoint.all_of(config.run.dir)[-1:] if resume else []
    start_from: str | Path = newest[0] if newest else config.model.path
    if start_from == "tiny":
        with accelerator.main_process_first():
            start_from = tiny_model(config.env, config.rollout.context, config.sft)
    model, tokenizer = load_model(start_from)
    policy: Any = Policy(model, config.rollout.temperature)
    reference = None
    if config.grpo.kl_coef:
        base = load_model(checkpoint.load_state(newest[0])["base"])[0] if newest else copy.deepcopy(model)
        reference = Policy(base, config.rollout.temperature).requires_grad_(False).eval().to(accelerator.device)
    optimizer: Any = torch.optim.AdamW(
        model.parameters(), lr=config.optim.lr, betas=(0.9, 0.99), weight_decay=config.optim.weight_decay
    )
    policy, optimizer = accelerator.prepare(policy, optimizer)
    chat = Chat(tokenizer, config.rollout.thinking)
    engine = HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    envs = make_envs(config.env, config.rollout.episodes // accelerator.num_processes)
    rollout = Rollout.of(config, envs, engine, chat)
    judge = Rollout.of(config, make_envs(config.env, len(envs), **config.eval.env), engine, chat)

    state: dict[str, Any] = {"step": 0, "episodes": 0, "wall_s": 0.0, "base": str(start_from)}
    if newest:
        state = checkpoint.load_state(newest[0])
        optimizer.load_state_dict(state.pop("optimizer"))
        accelerator.print(f"resuming {config.run.dir} after step {state['step']}")
    tracker = Tracker(config, sources, accelerator, state["step"])
    engine.sync(state["step"])
    if "before" not in state:
        state["before"] = evaluate(judge, config.eval.episodes, config.eval.temperature, accelerator)
        accelerator.print(last_line("before", state["before"]))
    earlier_s = state["wall_s"]

    def save() -> None:
        accelerator.wait_for_everyone()
        state["wall_s"] = earlier_s + time.monotonic() - started
        if accelerator.is_main_process:
            kept = {**state, "optimizer": optimizer.state_dict()}
            checkpoint.save(config.run.dir, state["step"], model, tokenizer, kept, config.run.keep)

    stop = StopSignal()
    bar = tqdm(initial=state["step"], total=config.run.max_steps, unit="step", disable=not accelerator.is_main_process)
    for step in range(state["step"], config.run.max_steps):
        t0 = time.perf_counter()
        episodes = collect(config, step, rollout, accelerator)
        t1 = time.perf_counter()
        advantages, rows, metrics = advantage(config, episodes)
        metrics |= update(config, rows, policy, reference, optimizer, accelerator, step)
        engine.sync(step + 1)
        t2 = time.perf_counter()

        episodes, advantages = gather_object(episodes), gather_object(advantages)
        metrics["groups/no_signal"] = float(np.mean(gather_object([metrics["groups/no_signal"]])))
        metrics |= describe(episodes)
        metrics |= {"time/collect_s": t1 - t0, "time/update_s": t2 - t1}
        metrics["time/tokens_per_second"] = metrics["tokens/sampled"] / (t2 - t0)
        state |= {"step": step + 1, "episodes": state["episodes"] + len(episodes)}
        if config.eval.every and (step + 1) % config.eval.every == 0:
            result = evaluate(judge, config.eval.episodes, config.eval.temperature, accelerator)
            metrics |= {f"eval/{name}": value for name, value in result.items() if isinstance(value, float)}
        tracker.log(step + 1, metrics)
        tracker.write_episodes(step + 1, episodes, advantages)
        bar.update()
        bar.set_postfix(reward=f"{metrics['reward/mean']:+.3f}", win=f"{metrics['outcome/win']:.2f}")
        if not all(math.isfinite(value) for value in metrics.values()):
            die(f"step {step + 1} is not finite: {[k for k, v in metrics.items() if not math.isfinite(v)]}")
        if stop.anywhere():
            save()
            bar.close()
            tracker.close()
            stop.leave(f"stopped by {stop.received} after step {step + 1}; go on with --resume")
        if (step + 1) % config.run.save_every == 0:
            save()
    bar.close()
    stop.restore()
    save()
    after = evaluate(judge, config.eval.episodes, config.eval.temperature, accelerator)
    summary = {"algorithm": "grpo", "env": config.env.id, "steps": state["step"], "episodes": state["episodes"]}
    summary |= {"wall_s": earlier_s + time.monotonic() - started, "before": state["before"], "after": after}
    tracker.write_summary(summary)
    tracker.close()
    if accelerator.is_main_process:
        write_report([config.run.dir], config.run.dir / "report.html")
        print(f"{last_line('before', state['before'])}\n{last_line('after', after)}\n{config.run.dir / 'report.html'}")


def describe(episodes: list[Episode]) -> dict[str, float]:
    """What the episodes of a step were like."""
    turns = [turn for episode in episodes for turn in episode.turns]
    returns = np.array([episode.total_reward for episode in episodes])
    outcomes = Counter(episode.outcome for episode in episodes)
    parses = Counter(turn.parse for turn in turns)
    metrics = {"reward/mean": float(returns.mean()), "reward/std": float(returns.std())}
    for name in ("win", "draw", "loss", "invalid", "solved", "failed", "truncated"):
        if outcomes[name] or name in ("win", "loss", "invalid"):
            metrics[f"outcome/{name}"] = outcomes[name] / len(episodes)
    metrics |= {f"parse/{name}": parses[name] / max(len(turns), 1) for name in ("ok", "malformed", "illegal")}
    lengths = [len(turn.action_ids) for turn in turns]
    cut = sum(turn.stop_reason == "length" for turn in turns)
    metrics |= {"reply/tokens": float(np.mean(lengths or [0])), "reply/cut": cut / max(len(turns), 1)}
    return metrics | {"tokens/sampled": float(sum(lengths)), "episode/turns": len(turns) / len(episodes)}


def main(argv: list[str]) -> None:
    try:
        config, sources, flags = load(GrpoConfig, argv)
        check(config)
        if int(os.environ.get("RANK", 0)) == 0:
            claim_folder(config.run.dir, flags["resume"], flags["overwrite"])
        train(config, sources, flags["resume"])
    except ConfigError as error:
        die(error)


if __name__ == "__main__":
    main(sys.argv[1:])
