"""Supervised fine-tuning on games of a scripted player: the warm start. It teaches the format, not the play.

    python algos/sft.py --config configs/sft_tictactoe_tiny.yaml

Loss: the mean of -log p(token) over the tokens of the demonstrated replies; prompts are not trained.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

import llm_gym  # noqa: F401 - registers the environments
from algos.maths.losses import token_weights
from algos.model import tiny
from algos.model.forward import Policy
from algos.rollout.batching import Batch
from algos.rollout.chat import Chat
from algos.rollout.play import Context
from algos.rollout.records import Row, Turn, to_rows
from algos.run.config import EnvSection, Section

TINY_VERSION = 1  # raise it when the recipe changes, so that no stale model is found in the cache


class SftSection(Section):
    player: str = Field(
        "random", description="The scripted player whose replies are learned; a weak one teaches format only."
    )
    episodes: int = Field(2000, ge=1, description="Games demonstrated.")
    steps: int = Field(300, ge=1, description="Optimizer steps.")
    batch: int = Field(256, ge=1, description="Replies a step.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate; linear to 0 after a short warm-up.")


Conversation = list[tuple[list[dict[str, str]], str]]
"""One episode: what the player was told before each reply, and the reply."""


def demonstrate(env: EnvSection, sft: SftSection, seed: int) -> list[Conversation]:
    """Plays episodes with a scripted player in the agent's seat; every seat in turn."""
    made: Any = gymnasium.make(env.id, **env.settings)
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


def as_rows(conversations: list[Conversation], chat: Chat, context: Context) -> list[Row]:
    """Demonstrations as rows, the replies (and the token that ends them) to be learned."""
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
    return rows


def train(model: torch.nn.Module, rows: list[Row], sft: SftSection, seed: int, quiet: bool = False) -> float:
    """Fits ``model`` to ``rows``; returns the last step's loss in nats a token."""
    rng = np.random.default_rng(seed)
    policy = Policy(model, temperature=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=sft.lr, weight_decay=0.0, betas=(0.9, 0.99))
    warmup = max(1, sft.steps // 20)
    bar = tqdm(range(sft.steps), desc="warm start", disable=quiet, unit="step", leave=False)
    model.train()
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = sft.lr * min((step + 1) / warmup, (sft.steps - step) / (sft.steps - warmup + 1))
        batch_rows = [rows[i] for i in rng.integers(len(rows), size=sft.batch)]
        counts = torch.tensor([row.action_tokens for row in batch_rows])
        weights = token_weights(counts, "token", float(counts.sum()), len(batch_rows), 0)
        for row, weight in zip(batch_rows, weights.tolist(), strict=True):
            row.weight = weight
        batch = Batch.of(batch_rows)
        logprobs, _ = policy(batch)
        loss = -(logprobs * batch.action_weights()).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return float(loss.item())


def cache_folder() -> Path:
    return Path(os.environ.get("LLM_GYM_CACHE", Path.home() / ".cache" / "llm_gym"))


def tiny_model(env: EnvSection, context: Context, sft: SftSection, seed: int = 0, quiet: bool = False) -> Path:
    """The embedded model warm-started on an environment: an ordinary Hugging Face folder, made once and cached.

    The opponent is left out of the recipe: demonstrations are between weak players whoever is trained against later.
    """
    settings = {k: v for k, v in env.settings.items() if k != "opponent"} | {"seat": "alternate"}
    env = EnvSection(id=env.id, **settings)
    recipe = {
        "version": TINY_VERSION,
        "env": env.model_dump(),
        "context": context,
        "sft": sft.model_dump(),
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / f"tiny-{env.id.split('/')[-1]}-{digest}"
    if folder.exists():
        return folder
    conversations = demonstrate(env, sft, seed)
    texts = [m["content"] for talk in conversations[:500] for messages, _ in talk for m in messages]
    tokenizer = tiny.train_tokenizer([*texts, *(reply for talk in conversations[:500] for _, reply in talk)])
    model = tiny.untrained(tokenizer, seed)
    train(model, as_rows(conversations, Chat(tokenizer), context), sft, seed, quiet)
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
