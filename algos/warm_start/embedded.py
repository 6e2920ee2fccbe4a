"""The embedded model: warm-started once, then cached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from algos.config.schema import EnvSection, SftSection
from algos.data.episodes import Episode
from algos.model.chat import Chat
from algos.rollout.conversation import Context
from algos.warm_start import tiny
from algos.warm_start.demonstrations import as_rows, demonstrate, demonstrated_env
from algos.warm_start.fit import fit
from llm_gym.opponents.nash import cache_folder

TINY_VERSION = 3  # increase it when the recipe changes, so that models of an earlier recipe are not used


def untrained_tiny(demonstrations: Sequence[Episode], seed: int) -> tuple[Any, Any]:
    """The embedded model with random weights, and a tokenizer trained on the text of the first 500 demonstrations."""
    shown = [episode for episode in demonstrations[:500] if episode.turns]  # some are over before the first reply
    texts = [text for episode in shown for text in (episode.rules, *(turn.observation for turn in episode.turns))]
    tokenizer = tiny.train_tokenizer([*texts, *(turn.reply for episode in shown for turn in episode.turns)])
    return tiny.untrained(tokenizer, seed), tokenizer


def tiny_model(env: EnvSection | Sequence[EnvSection], context: Context, sft: SftSection, seed: int = 0) -> Path:
    """The embedded model warm-started on one environment or several: a Hugging Face folder, made once and cached.

    The recipe does not depend on the opponent in training: demonstrations are games between weak players.
    """
    envs = list(dict.fromkeys(map(demonstrated_env, [env] if isinstance(env, EnvSection) else env)))
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
    demonstrations = [episode for episodes in zip(*shares, strict=True) for episode in episodes]
    model, tokenizer = untrained_tiny(demonstrations, seed)
    rows = as_rows(demonstrations, Chat(tokenizer), context, sft.completion_only_loss)
    bar = tqdm(fit(model, rows, sft, seed), total=sft.steps, leave=False)
    for loss in bar:
        bar.set_description(f"warm start, loss {loss:.3f}", refresh=False)
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    (unfinished / "recipe.json").write_text(json.dumps(recipe, indent=2))
    try:
        unfinished.rename(folder)
    except OSError:  # another process wrote the folder first, with the same model
        if not folder.exists():
            raise
    return folder
