"""Fills the cache where there is a network, for nodes that have none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from gymnasium.error import DependencyNotInstalled

from algos.cluster.offline import VARIABLES, exports, go_offline
from algos.errors import ConfigError
from llm_gym.games.mbpp.dataset import PATH_VARIABLE, MbppTask, read_tasks
from llm_gym.opponents.nash import cache_folder

MBPP = {"mbpp": "hub", "mbpp:sanitized": "hub:sanitized"}
WEIGHTS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*")
"""What a model needs: one copy of the weights, the tokenizer, the chat template."""


def fetch(names: Sequence[str]) -> None:
    """Fetches models and data sets, then prints the variables that an offline node needs.

    Raises:
        ConfigError: A name is neither a model's nor a data set's, or there is no network.
    """
    if any(name not in MBPP and name.count("/") != 1 for name in names):
        raise ConfigError("usage: llm-gym fetch MODEL|mbpp|mbpp:sanitized ... (a MODEL is owner/name: Qwen/Qwen3-0.6B)")
    if reason := go_offline(ask=True):
        raise ConfigError(
            f"no network here ({reason}): run `llm-gym fetch {' '.join(names)}` on a login node or another machine, "
            "with HF_HOME on a file system that the nodes share, or copy that folder"
        )
    variables = dict(VARIABLES)
    for name in names:
        variables |= fetch_mbpp(name) if name in MBPP else fetch_model(name)
    print(f"\n# on a node without a network:\n{exports(variables)}")


def fetch_model(name: str) -> dict[str, str]:
    """Downloads what :data:`WEIGHTS` names into Hugging Face's cache and returns the variable that says where it is.

    Raises:
        ConfigError: There is no such model, it is gated, or the network failed.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(WEIGHTS)))
    except (OSError, ValueError) as error:  # every error of the hub is one of the two
        said = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"fetch {name}: {said}") from None
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"fetch {name}: it has no weights in safetensors format")
    print(f"{name}: {folder}")
    return {"HF_HOME": constants.HF_HOME}


def fetch_mbpp(name: str) -> dict[str, str]:
    """Downloads MBPP and keeps it as one file that needs no library to read; returns the variable that names it."""
    try:
        tasks = read_tasks(MBPP[name])
    except (ValueError, DependencyNotInstalled) as error:
        raise ConfigError(f"fetch {name}: {error}") from None
    path = cache_folder() / f"{name.replace(':', '-')}.jsonl"
    write_tasks(path, tasks)
    print(f"{name}: {len(tasks)} tasks in {path}")
    return {PATH_VARIABLE: str(path.absolute())}


def write_tasks(path: Path, tasks: Iterable[MbppTask]) -> None:
    """Writes tasks as lines that :func:`~llm_gym.games.mbpp.dataset.read_tasks` reads as the same tasks."""
    records = [
        {
            "task_id": task.task_id,
            "text": task.text,
            "code": task.code,
            "test_list": list(task.tests),
            "test_imports": [task.imports] if task.imports else [],
            "test_setup_code": task.setup,
        }
        for task in tasks
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
