"""Supervised fine-tuning on games of a scripted player: the warm start. It teaches the format, not the play.

    python algos/sft.py --config configs/sft_tictactoe_tiny.yaml

Loss: the mean of -log p(token) over the tokens of the demonstrated replies; over those of the prompts too with
``sft.completion_only_loss: false``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from tqdm import tqdm

from algos.maths.losses import token_weights
from algos.model import tiny
from algos.model.forward import Policy
from algos.model.load import check_settings, load_model
from algos.rollout.batching import micro_batches
from algos.rollout.chat import Chat
from algos.rollout.hf import HFEngine
from algos.rollout.play import Context, Rollout, make_envs
from algos.rollout.records import Row, Turn, to_rows
from algos.run import checkpoint
from algos.run.config import Config, ConfigError, EnvSection, Section, die, load
from algos.run.evaluate import evaluate
from algos.run.offline import prepare
from algos.run.report import last_line, write_report
from algos.run.tracking import Tracker, claim_folder
from llm_gym import TextEnv

TINY_VERSION = 3  # raise it when the recipe changes, so that no stale model is found in the cache


class SftSection(Section):
    player: str = Field(
        "random", description="The scripted player whose replies are learned; a weak one teaches format only."
    )
    episodes: int = Field(2000, ge=1, description="Games demonstrated.")
    steps: int = Field(300, ge=1, description="Optimizer steps.")
    batch: int = Field(256, ge=1, description="Replies a step.")
    micro_batch: int = Field(256, ge=1, description="Replies in memory at a time. It never changes the gradient.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate; linear to 0 after a short warm-up.")
    completion_only_loss: bool = Field(
        True,
        description="Learn the replies only (as in TRL); `false`: what the game says too, which teaches it where each "
        "word of a board stands.",
    )


class SftConfig(Config):
    sft: SftSection = SftSection()


Conversation = list[tuple[list[dict[str, str]], str]]
"""One episode: what the player was told before each reply, and the reply."""


def demonstrate(env: EnvSection, sft: SftSection, seed: int) -> list[Conversation]:
    """Plays episodes with a scripted player in the agent's seat; every seat in turn."""
    made: Any = make_envs(env, 1)[0]
    rng = np.random.default_rng(seed)
    conversations: list[Conversation] = []
    for episode in range(sft.episodes):
        _, info = made.reset(seed=seed + episode)
        conversation: Conversation = []
        done = "outcome" in info
        while not done:
            reply = made.unwrapped.scripted_reply(sft.player, rng)
            conversation.append((info["messages"], reply))
            _, _, terminated, truncated, info = made.step(reply)
            done = terminated or truncated
        conversations.append(conversation)
    return conversations


def as_rows(conversations: list[Conversation], chat: Chat, context: Context, completion_only: bool = True) -> list[Row]:
    """Demonstrations as rows, the replies (and the token that ends them) to be learned.

    Args:
        completion_only: If not, prompts are learned as well, from where the first two of them differ.
    """
    rows: list[Row] = []
    end = chat.tokenizer.eos_token_id
    for conversation in conversations:
        turns: list[Turn] = []
        rules = [m for m in conversation[0][0] if m["role"] == "system"] if conversation else []
        for messages, reply in conversation:
            ids = [*chat.tokenizer.encode(reply, add_special_tokens=False), end]
            if not turns:
                prompt = chat.first(messages)
            elif context == "turn":
                prompt = chat.first(rules + messages)
            else:
                prompt = chat.following(turns[-1].prompt_ids, turns[-1].action_ids, messages)
            turns.append(Turn(prompt, ids, [0.0] * len(ids)))
        rows += to_rows(turns, [[0.0] * len(turn.action_ids) for turn in turns])
    if completion_only:
        return rows
    shared = len(os.path.commonprefix([row.prompt_ids for row in rows]))
    return [whole(row, min(shared, len(row.prompt_ids) - 1)) for row in rows]


def whole(row: Row, start: int) -> Row:
    """``row`` with every token from ``start`` on to be learned."""
    ids = row.prompt_ids[start:] + row.ids
    zeros = [0.0] * len(ids)
    return Row(row.prompt_ids[:start], ids, [True] * len(ids), zeros, zeros)


def fit(model: torch.nn.Module, rows: list[Row], sft: SftSection, seed: int) -> Iterator[float]:
    """Trains ``model`` on ``rows``; yields each step's loss, in nats a token."""
    rng = np.random.default_rng(seed)
    policy = Policy(model, temperature=1.0)
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=sft.lr, weight_decay=0.0, betas=(0.9, 0.99))
    warmup = max(1, sft.steps // 20)
    model.train()
    for step in range(sft.steps):
        for group in optimizer.param_groups:
            group["lr"] = sft.lr * min((step + 1) / warmup, (sft.steps - step) / (sft.steps - warmup + 1))
        chosen = [rows[i] for i in rng.integers(len(rows), size=sft.batch)]
        counts = torch.tensor([row.action_tokens for row in chosen])
        weights = token_weights(counts, "token", float(counts.sum()), len(chosen), 0)
        for row, weight in zip(chosen, weights.tolist(), strict=True):
            row.weight = weight
        total = 0.0
        for _, batch in micro_batches(chosen, sft.micro_batch, device):
            logprobs, _ = policy(batch)
            loss = -(logprobs * batch.action_weights()).sum()
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield total


def cache_folder() -> Path:
    return Path(os.environ.get("LLM_GYM_CACHE", Path.home() / ".cache" / "llm_gym"))


def untrained_tiny(conversations: list[Conversation], seed: int) -> tuple[Any, Any]:
    """The embedded model with random weights, and a tokenizer trained on the conversations."""
    talks = conversations[:500]
    texts = [m["content"] for talk in talks for messages, _ in talk for m in messages]
    tokenizer = tiny.train_tokenizer([*texts, *(reply for talk in talks for _, reply in talk)])
    return tiny.untrained(tokenizer, seed), tokenizer


def tiny_model(env: EnvSection | Sequence[EnvSection], context: Context, sft: SftSection, seed: int = 0) -> Path:
    """The embedded model warm-started on one environment or several: a Hugging Face folder, made once and cached.

    The opponent is left out of the recipe: demonstrations are between weak players whoever is trained against later.
    """
    envs = list(dict.fromkeys(map(_demonstrated, [env] if isinstance(env, EnvSection) else env)))
    recipe = {
        "version": TINY_VERSION,
        "envs": [json.loads(text) for text in envs],
        "context": context,
        "sft": sft.model_dump(exclude={"micro_batch"}),
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    sections = [EnvSection(**json.loads(text)) for text in envs]
    folder = cache_folder() / f"tiny-{'-'.join(section.id.split('/')[-1] for section in sections)}-{digest}"
    if folder.exists():
        return folder
    shares = [demonstrate(section, sft, seed) for section in sections]
    conversations = [talk for talks in zip(*shares, strict=True) for talk in talks]
    model, tokenizer = untrained_tiny(conversations, seed)
    rows = as_rows(conversations, Chat(tokenizer), context, sft.completion_only_loss)
    bar = tqdm(fit(model, rows, sft, seed), total=sft.steps, leave=False)
    for loss in bar:
        bar.set_description(f"warm start, loss {loss:.3f}", refresh=False)
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    (unfinished / "recipe.json").write_text(json.dumps(recipe, indent=2))
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster; its folder holds the same model
        if not folder.exists():
            raise
    return folder


def _demonstrated(env: EnvSection) -> str:
    """The environment that is demonstrated for ``env``, as JSON: every seat in turn, from the start."""
    made: Any = make_envs(env, 1)[0].unwrapped
    if not isinstance(made, TextEnv):
        raise ConfigError("model.path: `tiny` is warm-started on llm_gym's own environments; name a model for this one")
    settings = {key: value for key, value in env.settings.items() if key not in ("opponent", "seat", "random_opening")}
    if made.game.num_players > 1:
        settings["seat"] = "alternate"
    return json.dumps({"id": env.id, **settings}, sort_keys=True)


def train(config: SftConfig, sources: dict[str, str]) -> None:
    """Demonstrate, fit, log, evaluate, checkpoint. ``model.path: tiny`` starts from random weights."""
    started = time.monotonic()
    accelerator = Accelerator(log_with=config.run.trackers or None, project_dir=config.run.dir / "tensorboard")
    conversations = demonstrate(config.env, config.sft, config.run.seed)
    if config.model.path == "tiny":
        model, tokenizer = untrained_tiny(conversations, config.run.seed)
    else:
        model, tokenizer = load_model(config.model.path, config.model)
    model.to(accelerator.device)
    chat = Chat(tokenizer, config.rollout.thinking)
    engine = HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    rollout = Rollout.of(config, make_envs(config.env, config.rollout.episodes), engine, chat)
    tracker = Tracker(config, sources, accelerator, start_step=0)
    before = evaluate(rollout, config.eval.episodes, config.eval.temperature, accelerator)
    rows = as_rows(conversations, chat, config.rollout.context, config.sft.completion_only_loss)
    bar = tqdm(fit(model, rows, config.sft, config.run.seed), total=config.sft.steps)
    for step, loss in enumerate(bar, 1):
        tracker.log(step, {"losses/sft": loss})
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    checkpoint.save(config.run.dir, config.sft.steps, model, tokenizer, {}, config.run.keep)
    after = evaluate(rollout, config.eval.episodes, config.eval.temperature, accelerator)
    summary = {"algorithm": "sft", "env": config.env.id, "steps": config.sft.steps, "episodes": config.sft.episodes}
    tracker.write_summary(summary | {"wall_s": time.monotonic() - started, "before": before, "after": after})
    tracker.close()
    write_report([config.run.dir], config.run.dir / "report.html")
    print(f"{last_line('before', before)}\n{last_line('after', after)}\n{config.run.dir / 'report.html'}")


def main(argv: list[str]) -> None:
    try:
        config, sources, flags = load(SftConfig, argv)
        prepare(config)
        check_settings(config.model)
        if config.model.path == "tiny" and config.model.lora_rank:
            raise ConfigError("model.lora_rank: tiny starts from random weights here; adapters need a trained model")
        make_envs(config.env, 1)
        claim_folder(config.run.dir, resume=False, overwrite=flags["overwrite"])
        train(config, sources)
    except ConfigError as error:
        die(error)


if __name__ == "__main__":
    main(sys.argv[1:])
