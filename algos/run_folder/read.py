"""What a run's folder holds, read back. A run may be unfinished, killed while writing, or have no step at all."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeGuard

import yaml

from algos.maths.statistics import mean_interval

Curve = dict[float, float]
"""A value at each step."""

Json = dict[str, Any]
Triple = tuple[float, float, float]
SCRIPTS = Path(__file__).parents[1]


@dataclass
class Run:
    """One run; a part that the run has not written is empty."""

    folder: Path
    config_text: str
    config: Json
    metrics: list[Json]
    summary: Json

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Reads what is there; what cannot be read is left out."""
        text = _read(folder / "config.yaml")
        try:
            config = yaml.safe_load(text)
        except yaml.YAMLError:
            config = {}
        metrics = [row for _, row in _json_lines(folder / "metrics.jsonl") if is_number(row.get("step"))]
        summary = _object(_read(folder / "summary.json"))
        folder = folder if folder.name else folder.resolve()  # a name for "."
        return cls(folder, text, config if isinstance(config, dict) else {}, metrics, summary)

    @property
    def settings(self) -> Json:
        """Each setting under ``section.key``."""
        sections = [(name, part) for name, part in self.config.items() if isinstance(part, dict)]
        return {f"{name}.{key}": value for name, part in sections for key, value in part.items()}

    @property
    def algorithm(self) -> str:
        """From the summary; of an unfinished run, the last section of its settings that has a script."""
        scripts = [section for section in self.config if (SCRIPTS / f"{section}.py").is_file()]
        return str(self.summary.get("algorithm") or "".join(scripts[-1:]))

    @property
    def command(self) -> str:
        """The command that repeats it; empty where that is not known."""
        script, config = f"algos/{self.algorithm}.py", str(self.folder / "config.yaml")
        line = shlex.join(["python", script, "--config", config, "--run.dir", f"{self.folder}-again"])
        return line if self.algorithm and self.config_text else ""

    @property
    def env(self) -> str:
        return str(self.summary.get("env") or self.settings.get("env.id") or "")

    @property
    def steps(self) -> int:
        return int(max((row["step"] for row in self.metrics), default=self.summary.get("steps", 0)))

    @property
    def alone(self) -> bool:
        """Whether the game is solved or failed, rather than won or lost."""
        return any("outcome/solved" in row or "outcome/failed" in row for row in self.metrics)

    def curve(self, key: str) -> Curve:
        """A metric at each step that has it. An outcome that is not listed did not happen."""
        curve = {}
        for row in self.metrics:
            absent = 0.0 if key.startswith("outcome/") and "outcome/win" in row else None
            value = row.get(key, absent)
            if is_number(value):
                curve[float(row["step"])] = float(value)
        return curve


@dataclass
class Game:
    """An episode and where it was found."""

    step: int
    line: int
    episode: Json


def pick_games(folder: Path) -> list[Game]:
    """The first game won and the first lost (else drawn, else other) of the last step, and the run's first game."""
    files = episode_files(folder)
    latest: dict[str, Game] = {}
    for file in reversed(files):
        for game in games_of(file):
            latest.setdefault(str(game.episode.get("outcome")), game)
        if latest:
            break
    chosen: list[Game] = []
    for role in (("win", "solved"), ("loss", "failed", "draw", "invalid", "truncated", *latest)):
        chosen += [latest[outcome] for outcome in role if outcome in latest and latest[outcome] not in chosen][:1]
    first = [game for file in files for game in [next(games_of(file), None)] if game][:1]
    return chosen + [game for game in first if game not in chosen]


def episode_files(folder: Path) -> list[Path]:
    """One file of episodes a step, in order."""
    return sorted(file for file in (folder / "episodes").glob("step_*.jsonl") if file.stem[5:].isdigit())


def count_episodes(file: Path) -> int:
    """Lines of a file, unfinished ones included."""
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def games_of(file: Path) -> Iterator[Game]:
    """The episodes of a step; a line that cannot be read is left out."""
    return (Game(int(file.stem[5:]), line, episode) for line, episode in _json_lines(file))


def evaluation(runs: Sequence[Run], when: str) -> Json:
    """``before`` or ``after`` of the runs that have it; of several runs, means with Student's interval."""
    results = [run.summary.get(when) for run in runs]
    return _combined([result for result in results if isinstance(result, dict) and result.get("episodes")])


def _combined(results: list[Json]) -> Json:
    if not results:
        return {}
    if all(result == results[0] for result in results):  # one run, or several that start from the same model
        return results[0]
    whole: Json = {"episodes": sum(result["episodes"] for result in results)}
    for key in dict.fromkeys(key for result in results for key in result if not key.endswith(("_low", "_high"))):
        values = [result[key] for result in results if key in result]
        if key == "episodes":
            continue
        if all(is_number(value) for value in values):
            mean, low, high = mean_interval(values)
            if f"{key}_low" in results[0] and key.endswith("_rate"):
                low, high = max(low, 0.0), min(high, 1.0)
            whole |= {key: mean, f"{key}_low": low, f"{key}_high": high}
        elif key in ("seats", "extra") and all(isinstance(value, dict) for value in values):
            names = sorted({name for value in values for name in value})
            whole[key] = {name: _combined([value[name] for value in values if name in value]) for name in names}
        elif all(isinstance(value, list) for value in values) and key.endswith("_rates"):
            whole[key] = [fmean(column) for column in zip(*values)]
    return whole


def rates_of_rules(runs: Sequence[Run], step: int) -> dict[int, float]:
    """The share of a step's episodes that kept each rule of the Password Game, among those it was shown in.

    Args:
        step: Index of the step, 0 for the first and -1 for the last.
    """
    shown: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for run in runs:
        for game in [game for file in episode_files(run.folder)[step:][:1] for game in games_of(file)]:
            info = game.episode.get("info")
            match info:
                case {"rules_shown": int(count), "rules_failed": list(rules)}:
                    shown.update(range(min(count, 1000)))
                    failed.update(rule for rule in rules if isinstance(rule, int))
    return {rule: 1 - failed[rule] / count for rule, count in sorted(shown.items())}


def triple(result: Json, key: str) -> Triple | None:
    """A value of an evaluation, and the ends of its interval."""
    value, low, high = (result.get(name) for name in (key, f"{key}_low", f"{key}_high"))
    return (value, low, high) if is_number(value) and is_number(low) and is_number(high) else None


def with_interval(result: Json, key: str, form: str = ".1%", ends: str = "") -> str:
    """A value of an evaluation as ``52.5% [37.5%, 67.1%]``; alone where it has no interval."""
    found, ends = triple(result, key), ends or form
    return f"{result[key]:{form}}" + (f" [{found[1]:{ends}}, {found[2]:{ends}}]" if found else "")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a finite number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e99


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _object(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:  # a killed run leaves its last line unfinished
        return {}
    return value if isinstance(value, dict) else {}


def _json_lines(path: Path) -> Iterator[tuple[int, Json]]:
    """Each object of a file and the number of its line."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from ((line, value) for line, value in enumerate(map(_object, file), 1) if value)
