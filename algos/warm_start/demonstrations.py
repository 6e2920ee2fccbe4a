"""Games of scripted players as rows to learn from."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from algos.config.schema import EnvSection, SftSection
from algos.data.episodes import Turn
from algos.data.rows import Row, to_rows
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.rollout.conversation import Context
from algos.rollout.environments import make_envs
from llm_gym import TextEnv

Demonstration = list[tuple[list[dict[str, str]], str]]
"""One episode: what the player was told before each reply, and the reply."""


def demonstrate(env: EnvSection, sft: SftSection, seed: int) -> list[Demonstration]:
    """Plays episodes with a scripted player in the agent's seat; every seat in turn."""
    made: Any = make_envs(env, 1)[0]
    rng = np.random.default_rng(seed)
    conversations: list[Demonstration] = []
    for episode in range(sft.episodes):
        _, info = made.reset(seed=seed + episode)
        conversation: Demonstration = []
        done = "outcome" in info
        while not done:
            reply = made.unwrapped.scripted_reply(sft.player, rng)
            conversation.append((info["messages"], reply))
            _, _, terminated, truncated, info = made.step(reply)
            done = terminated or truncated
        conversations.append(conversation)
    return conversations


def as_rows(
    conversations: list[Demonstration], chat: Chat, context: Context, completion_only: bool = True
) -> list[Row]:
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
        rows += to_rows(turns)
    if completion_only:
        return rows
    shared = len(os.path.commonprefix([row.prompt_ids for row in rows]))
    return [whole(row, min(shared, len(row.prompt_ids) - 1)) for row in rows]


def whole(row: Row, start: int) -> Row:
    """``row`` with every token from ``start`` on to be learned."""
    ids = row.prompt_ids[start:] + row.ids
    zeros = [0.0] * len(ids)
    return Row(row.prompt_ids[:start], ids, [True] * len(ids), zeros, zeros)


def _demonstrated(env: EnvSection) -> str:
    """The environment that is demonstrated for ``env``, as JSON: every seat in turn, from the start."""
    made: Any = make_envs(env, 1)[0].unwrapped
    if not isinstance(made, TextEnv):
        raise ConfigError("model.path: `tiny` is warm-started on llm_gym's own environments; name a model for this one")
    settings = {key: value for key, value in env.settings.items() if key not in ("opponent", "seat", "random_opening")}
    if made.game.num_players > 1:
        settings["seat"] = "alternate"
    return json.dumps({"id": env.id, **settings}, sort_keys=True)
