"""The metrics of the first three steps of every recipe for the embedded model, and how two such sets differ.

    python benchmarks/three_steps.py record before.json            # in one checkout
    python benchmarks/three_steps.py record after.json             # in another
    python benchmarks/three_steps.py compare before.json after.json --renamed groups/no_signal=groups/zero_std

One thread and one seed, so that a change which is meant to change nothing gives the same numbers to the last digit.
Times are left out. ``--short`` makes the warm starts and evaluations small, for a check in a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SHORT = ("--sft.steps", "12", "--sft.episodes", "200")
EVALUATED = ("--eval.episodes", "40", "--eval.every", "2")


def run(config: Path, folder: Path, short: bool) -> dict[str, Any]:
    """Metrics of each step, and the summary's evaluations, of one recipe."""
    algorithm = config.stem.partition("_")[0]
    out = folder / config.stem
    command = [sys.executable, str(ROOT / "algos" / f"{algorithm}.py"), "--config", str(config)]
    command += ["--run.dir", str(out), "--run.seed", "0", "--run.max_steps", "3", "--run.save_every", "100"]
    command += EVALUATED + (SHORT if short else ())
    if algorithm == "sft":
        command += ["--sft.steps", "12", "--run.max_steps", "12"]
    if "also" in (evaluation := yaml.safe_load(config.read_text()).get("eval", {})) or "extra" in evaluation:
        command += ["--eval.extra" if "extra" in evaluation else "--eval.also", "[]"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "LLM_GYM_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{config.name}: {done.stderr[-2000:]}")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    print(config.stem, flush=True)
    return {
        "steps": [step for step in steps if step["step"] <= 3],
        "before": summary["before"],
        "after": summary["after"],
    }


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every number under the path that leads to it."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}" if name else key).items()}
    if isinstance(value, list):
        return {k: v for number, part in enumerate(value) for k, v in flat(part, f"{name}.{number}").items()}
    return {name: value}


def record(file: Path, short: bool, jobs: int, only: list[str]) -> None:
    configs = sorted((ROOT / "configs").glob("*_tiny.yaml"))
    configs = [config for config in configs if not only or config.stem in only]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda config: run(config, Path(folder), short), configs))
    file.write_text(json.dumps({c.stem: r for c, r in zip(configs, results, strict=True)}, indent=1) + "\n")


def compare(before: Path, after: Path, renamed: dict[str, str]) -> bool:
    """Prints a line a recipe: numbers compared, those that are only in one set, and the largest difference."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    print("| recipe | numbers | equal | largest difference | only before | only after |")
    print("| --- | --- | --- | --- | --- | --- |")
    all_equal = True
    for recipe in sorted({*old, *new}):
        one, other = named(old.get(recipe, {}), renamed), named(new.get(recipe, {}), renamed)
        both = sorted({*one} & {*other})
        wrong = [key for key in both if one[key] != other[key] and str(one[key]) != str(other[key])]  # NaN is NaN
        gaps = [abs(one[key] - other[key]) for key in wrong if isinstance(one[key], float | int)]
        only = [", ".join(sorted({*a} - {*b})[:6]) or "-" for a, b in ((one, other), (other, one))]
        cells = [recipe, len(both), len(both) - len(wrong), f"{max(gaps, default=0.0):.3g}", *only]
        print("| " + " | ".join(map(str, cells)) + " |")
        for key in wrong[:4]:
            print(f"   {key}: {one[key]!r} before, {other[key]!r} after")
        all_equal = all_equal and not wrong and bool(both)
    return all_equal


def named(results: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """The numbers of a recipe under today's names, without times."""
    found = {}
    for key, value in flat(results).items():
        for old, new in renamed.items():
            key = key.replace(old, new)
        if "time/" not in key and not key.endswith("_s"):
            found[key] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the recipes")
    recording.add_argument("file", type=Path)
    recording.add_argument("--short", action="store_true", help="small warm starts: minutes in place of half an hour")
    recording.add_argument("--jobs", type=int, default=2, help="runs side by side")
    recording.add_argument("--only", nargs="*", default=[], help="these recipes only")
    comparing = commands.add_parser("compare", help="compare two files; status 1 where a number differs")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--renamed", nargs="*", default=[], metavar="OLD=NEW", help="names that changed")
    given = parser.parse_args()
    if given.command == "record":
        record(given.file, given.short, given.jobs, given.only)
    else:
        sys.exit(not compare(given.before, given.after, dict(pair.split("=") for pair in given.renamed)))


if __name__ == "__main__":
    main()
