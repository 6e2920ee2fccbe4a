"""Runs to report on, and a page as a browser reads it: what the tests of the report share."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from algos.report.page import write_report

CONFIG = """run:
  name: small  # command line
  seed: {seed}  # default
  max_steps: 200  # default
env:
  id: llmgym/TicTacToe-v0  # default
  opponent: {opponent}  # default
grpo:
  group_size: 8  # default
"""
HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\x00\x00\ud800\u202eabc\u200f &amp; $title"
)


class Page(HTMLParser):
    """A page as a browser reads it: every tag, every attribute, what is shown without scripts, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.figures: list[tuple[float, str]] = []
        self.text = ""
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside = ""
        self._value: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "data":
            self._value = dict(attrs)["value"]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
            return
        self.text += data
        if self._value is not None:
            self.figures.append((float(self._value), data))
            self._value = None


def evaluation(win: float, seats: bool = True) -> dict[str, Any]:
    result: dict[str, Any] = {"episodes": 100}
    for name, rate in (("win", win), ("draw", 0.02), ("loss", 0.97 - win), ("invalid", 0.01)):
        result |= {f"{name}_rate": rate, f"{name}_rate_low": rate - 0.01, f"{name}_rate_high": rate + 0.01}
    result |= {"mean_return": 2 * win - 1, "mean_return_low": 2 * win - 1.1, "mean_return_high": 2 * win - 0.9}
    if seats:
        result["seats"] = {"0": evaluation(win + 0.003, False), "1": evaluation(win - 0.003, False)}
    return result


def episode(outcome: str, reply: str = r"\boxed{4}", **more: Any) -> dict[str, Any]:
    turn = {"observation": "You are X.", "reply": reply, "parse": "ok", "reward": 1.0, "action_ids": [1, 2, 3]}
    kept = {"env": "llmgym/TicTacToe-v0", "seed": 7, "player": 0, "outcome": outcome, "return": 1.0, "advantage": 0.25}
    return kept | {"rules": "Three in a row.", "turns": [turn], "last_observation": "The end."} | more


def metrics(step: int) -> dict[str, float]:
    return {"step": step, "reward/mean": step / 100, "outcome/win": 0.6, "outcome/loss": 0.4, "parse/ok": 1.0,
            "policy/entropy": 1 / step, "losses/policy": math.sin(step), "groups/zero_std": 0.1,
            "time/tokens_per_second": 1000.0 + step, "tokens/sampled": 10.0}  # fmt: skip


def make_run(
    folder: Path,
    steps: int = 3,
    after: float | None = 0.9,
    games: dict[int, list[dict[str, Any]]] | None = None,
    seed: int = 0,
    opponent: str = "random",
) -> Path:
    (folder / "episodes").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(seed=seed, opponent=opponent))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metrics(i + 1)) + "\n" for i in range(steps)))
    for step, played in (games or {}).items():
        file = folder / "episodes" / f"step_{step:06d}.jsonl"
        file.write_text("".join(json.dumps(game) + "\n" for game in played))
    if after is not None:
        summary = {"algorithm": "grpo", "env": "llmgym/TicTacToe-v0", "steps": steps, "episodes": 768, "wall_s": 90.0}
        summary |= {"before": evaluation(0.25), "after": evaluation(after)}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def page_of(*runs: Path) -> Page:
    out = runs[0] / "report.html"
    write_report(list(runs), out)
    return Page(out.read_text(encoding="utf-8"))
