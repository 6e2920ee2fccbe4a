"""A run's folder: settings, metrics, episodes, summary; and the trackers beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from algos.config.load import dump
from algos.config.schema import Config
from algos.data.episodes import Episode
from algos.errors import ConfigError

Pieces = Callable[[list[int]], list[str]]

WRITTEN = (
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "report.html",
    "episodes",
    "checkpoints",
    "evaluations",
    "average",
    "tensorboard",
    "wandb",
)
"""What a run writes into its folder, and what ``--overwrite`` removes."""


def claim_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Makes ``folder`` ready for a run; an earlier run in it is kept unless ``overwrite`` is set.

    Raises:
        ConfigError: It holds a run, and neither ``--resume`` nor ``--overwrite`` was given; or it cannot be written.
    """
    if (folder / "config.yaml").exists() and not resume:
        if not overwrite:
            raise ConfigError(
                f"{folder} holds a run: --resume goes on with it, --overwrite replaces it, --run.dir names another"
            )
        for path in [*(folder / name for name in WRITTEN), *folder.glob("not_finite_*.pt")]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir {folder}: {error.strerror}") from None


class Tracker:
    """Writes a run's records. Only the main process writes.

    Args:
        start_step: Metrics of later steps, left by a run that was killed, are dropped.
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
        """Appends one line to metrics.jsonl and sends the metrics to the trackers."""
        if self.main:
            with self._metrics.open("a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
            if self.accelerator.trackers:
                self.accelerator.log(metrics, step=step)

    def write_episodes(self, step: int, episodes: Sequence[Episode], pieces: Pieces) -> None:
        """Writes every episode of a step as JSON lines, and the first few as text to read.

        Args:
            pieces: Token ids as strings, one a token (``Chat.pieces``).
        """
        if not self.main:
            return
        name = self.folder / "episodes" / f"step_{step:06d}"
        with name.with_suffix(".jsonl").open("w") as file:
            file.writelines(as_json(episode, pieces) + "\n" for episode in episodes)
        shown = [as_text(episode) for episode in episodes[:4]]
        name.with_suffix(".txt").write_text(("\n" + "=" * 60 + "\n").join(shown), errors="backslashreplace")

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.main:
            self.folder.joinpath("summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        if self.accelerator.trackers:
            self.accelerator.end_training()


SHOWN_ELSEWHERE = ("player", "legal_actions", "parse", "messages", "outcome", "reward_terms")
"""Keys of ``info`` that have a place of their own in a line, or no meaning once the game is over."""
TURN_FIELDS = ("observation", "reply", "parse", "reward", "advantage", "stop_reason", "policy_version", "action_ids")


def as_json(episode: Episode, pieces: Pieces) -> str:
    """An episode as a JSON line: its messages, rewards and advantages, and each token with its log-probability."""
    line = {
        "env": episode.env_id,
        "seed": episode.seed,
        "group": episode.group,
        "player": episode.player,
        "outcome": episode.outcome,
        "return": episode.total_reward,
        "reward_terms": episode.info.get("reward_terms", {}),
        "advantage": sum(turn.advantage for turn in episode.turns) / max(len(episode.turns), 1),
        "info": {key: value for key, value in episode.info.items() if key not in SHOWN_ELSEWHERE},
        "rules": episode.rules,
        "last_observation": episode.last_observation,
        "turns": [{name: getattr(turn, name) for name in TURN_FIELDS} for turn in episode.turns],
    }
    for turn, fields in zip(episode.turns, line["turns"]):
        fields["tokens"] = pieces(turn.action_ids)
        fields["logprobs"] = [round(logprob, 4) for logprob in turn.logprobs]
    return json.dumps(line, default=str)


def as_text(episode: Episode) -> str:
    """An episode as text to read."""
    head = f"{episode.env_id}, seed {episode.seed}, seat {episode.player}: {episode.outcome}"
    parts = [f"{head}, return {episode.total_reward:+g}", f"[rules]\n{episode.rules}"]
    for turn in episode.turns:
        parts.append(f"[game]\n{turn.observation}")
        parts.append(f"[reply, {turn.parse}, advantage {turn.advantage:+.3f}]\n{turn.reply}")
    return "\n\n".join([*parts, f"[end]\n{episode.last_observation}"]) + "\n"
