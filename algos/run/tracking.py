"""A run's folder: settings, metrics, episodes, summary; and the trackers beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from algos.rollout.records import Episode
from algos.run.config import Config, ConfigError, dump

WRITTEN = (
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "report.html",
    "episodes",
    "checkpoints",
    "tensorboard",
    "wandb",
)
"""What a run writes into its folder, and all that ``--overwrite`` removes."""


def claim_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Makes ``folder`` ready for a run; never touches an earlier run unless told to.

    Raises:
        ConfigError: It holds a run, and neither ``--resume`` nor ``--overwrite`` was given; or it cannot be written.
    """
    if (folder / "config.yaml").exists() and not resume:
        if not overwrite:
            raise ConfigError(
                f"{folder} holds a run: --resume goes on with it, --overwrite replaces it, --run.dir names another"
            )
        for name in WRITTEN:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir {folder}: {error.strerror}") from None


class Tracker:
    """Writes what a run leaves behind. Only the main process writes.

    Args:
        start_step: Metrics of later steps, which a killed run may have left, are dropped.
    """

    def __init__(self, config: Config, sources: dict[str, str], accelerator: Accelerator, start_step: int) -> None:
        self.folder = config.run.dir
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self._metrics = self.folder / "metrics.jsonl"
        if not self.main:
            return
        self.folder.joinpath("config.yaml").write_text(dump(config, sources))
        self.folder.joinpath("episodes").mkdir(exist_ok=True)
        kept = []
        if start_step and self._metrics.exists():
            lines = self._metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start_step]
        self._metrics.write_text("".join(kept))
        if config.run.trackers:
            os.environ.setdefault("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
            os.environ.setdefault("WANDB_SILENT", "true")
            accelerator.init_trackers(config.run.name, init_kwargs={"wandb": {"dir": str(self.folder)}})

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Appends one line to metrics.jsonl and tells the trackers."""
        if self.main:
            with self._metrics.open("a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
            if self.accelerator.trackers:
                self.accelerator.log(metrics, step=step)

    def write_episodes(self, step: int, episodes: Sequence[Episode], advantages: Sequence[float]) -> None:
        """Writes every episode of a step as JSON lines, and the first few as text to read."""
        if not self.main:
            return
        name = self.folder / "episodes" / f"step_{step:06d}"
        with name.with_suffix(".jsonl").open("w") as file:
            for episode, advantage in zip(episodes, advantages, strict=True):
                file.write(json.dumps(as_json(episode, advantage)) + "\n")
        shown = [as_text(episode, advantage) for episode, advantage in zip(episodes[:4], advantages, strict=False)]
        name.with_suffix(".txt").write_text(("\n" + "=" * 60 + "\n").join(shown), errors="backslashreplace")

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.main:
            self.folder.joinpath("summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        if self.accelerator.trackers:
            self.accelerator.end_training()


def as_json(episode: Episode, advantage: float) -> dict[str, Any]:
    """An episode for a JSON line: what was said, what it brought, and each token's log-probability."""
    turns = [
        {
            "observation": turn.observation,
            "reply": turn.reply,
            "parse": turn.parse,
            "reward": turn.reward,
            "stop_reason": turn.stop_reason,
            "action_ids": turn.action_ids,
            "logprobs": [round(p, 4) for p in turn.logprobs],
        }
        for turn in episode.turns
    ]
    return {
        "env": episode.env_id,
        "seed": episode.seed,
        "group": episode.group,
        "player": episode.player,
        "outcome": episode.outcome,
        "return": episode.total_reward,
        "reward_terms": episode.info.get("reward_terms", {}),
        "advantage": advantage,
        "rules": episode.rules,
        "turns": turns,
        "last_observation": episode.last_observation,
    }


def as_text(episode: Episode, advantage: float) -> str:
    """An episode as one would read it aloud."""
    head = f"{episode.env_id}, seed {episode.seed}, seat {episode.player}: {episode.outcome}"
    parts = [f"{head}, return {episode.total_reward:+g}, advantage {advantage:+.3f}", f"[rules]\n{episode.rules}"]
    for turn in episode.turns:
        parts += [f"[game]\n{turn.observation}", f"[reply, {turn.parse}]\n{turn.reply}"]
    return "\n\n".join([*parts, f"[end]\n{episode.last_observation}"]) + "\n"
