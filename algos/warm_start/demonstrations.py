"""Games of scripted players as rows to learn from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np

from algos.config.schema import EnvSection, RolloutSection, SftSection
from algos.data.episodes import Episode
from algos.data.rows import Row, to_rows
from algos.data.tasks import EnvKey, Start
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.rollout.conversation import Context, Conversation
from algos.rollout.environments import make_env
from algos.rollout.single_agent import EpisodeRunner
from llm_gym import TextEnv


def demonstrate(env: EnvSection, sft: SftSection, seed: int) -> list[Episode]:
    """Plays episodes with a scripted player in the agent's seat; one generator is the randomness of all its replies."""
    runner, key, rng = EpisodeRunner(RolloutSection()), EnvKey.of(env), np.random.default_rng(seed)
    starts = [Start(key, seed + number) for number in range(sft.episodes)]
    return [runner.play([start], [[sft.player]], [rng])[0][0] for start in starts]


def as_rows(demonstrations: Sequence[Episode], chat: Chat, context: Context, completion_only: bool = True) -> list[Row]:
    """Demonstrations as rows; the replies, and the token that ends each, are trained.

    Args:
        completion_only: If False, prompts are trained as well, from where the first two of them differ.
    """
    rows: list[Row] = []
    for demonstration in demonstrations:
        conversation = Conversation(chat, context, rules=demonstration.rules)
        for turn in demonstration.turns:
            conversation.observe(turn.observation)
            conversation.reply_with(turn.reply)
        turns = conversation.episode.turns
        rows += to_rows(turns)
    if completion_only:
        return rows
    shared = len(os.path.commonprefix([row.prompt_ids for row in rows]))
    return [whole(row, min(shared, len(row.prompt_ids) - 1)) for row in rows]


def whole(row: Row, start: int) -> Row:
    """``row`` with every token trained from token ``start`` of its prompt on."""
    ids = row.prompt_ids[start:] + row.ids
    zeros = [0.0] * len(ids)
    return Row(row.prompt_ids[:start], ids, [True] * len(ids), zeros, zeros)


def demonstrated_env(env: EnvSection) -> str:
    """The environment demonstrated for ``env``, as JSON: every seat in turn, without random openings."""
    made = make_env(env).unwrapped
    if not isinstance(made, TextEnv):
        raise ConfigError("model.path: `tiny` is warm-started on llm_gym's own environments; name a model for this one")
    settings = {key: value for key, value in env.settings.items() if key not in ("opponent", "seat", "random_opening")}
    if made.game.num_players > 1:
        settings["seat"] = "alternate"
    return json.dumps({"id": env.id, **settings}, sort_keys=True)
