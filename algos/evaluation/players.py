"""Players by name, for evaluations and tournaments: models and scripted players."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from algos.config.schema import Config, SftSection
from algos.engines.hf import HFEngine
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.model.load import check_model, load_model
from algos.rollout.playing import ModelPlayer, Player
from algos.run_folder import checkpoints as checkpoint
from algos.warm_start.embedded import tiny_model
from llm_gym.opponents import PLAYERS


def is_model(name: str) -> bool:
    """Whether ``name`` is meant as a model rather than as a scripted player."""
    return name == "tiny" or "/" in name or Path(name).expanduser().exists()


def known_scripted(name: str) -> str:
    """The error for a name that is neither a model nor a scripted player."""
    return f"{name!r} is no model folder and no scripted player ({', '.join(['uniform', 'empty', *PLAYERS])}, ...)"


def run_of(path: str) -> Path | None:
    """The folder of the run that a checkpoint is from; None for any other model."""
    folder = Path(path).expanduser()
    parents = (folder, folder.absolute().parent.parent) if folder.exists() else ()
    return next((parent for parent in parents if (parent / "checkpoints").is_dir()), None)


def check_player(path: str) -> str:
    """The path of a model; for a run's folder, that of its newest checkpoint.

    Raises:
        ConfigError: There is no model.
    """
    folder = Path(path).expanduser()
    if (folder / "checkpoints").is_dir():
        saved = checkpoint.all_of(folder)
        if not saved:
            raise ConfigError(f"--model {path}: this run has no checkpoint yet")
        return str(saved[-1])
    check_model(path)
    return path


def load_player(name: str, config: Config, accelerator: Accelerator, temperature: float, seed: int = 0) -> Player:
    """Loads a model (``tiny``: the embedded one for ``config.env``); returns a scripted player's name as it is."""
    if not is_model(name):
        return name
    path = tiny_model(config.env, config.rollout.context, SftSection()) if name == "tiny" else name
    model, tokenizer = load_model(path, config.model, trainable=False)
    model.to(accelerator.device)
    chat = Chat(tokenizer, config.rollout.thinking)
    engine = HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    return ModelPlayer(engine, chat, temperature, torch.Generator(accelerator.device).manual_seed(seed))
