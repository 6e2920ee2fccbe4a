"""Trains the recipes of recipes.yaml and writes RESULTS.md: before and after with intervals, seeds, steps and times.

    python benchmarks/results.py                          # every recipe, three seeds each: hours
    python benchmarks/results.py spiral_kuhn --seeds 0 1  # one of them; the rest of the page stays
    python benchmarks/results.py --page                   # the page alone, from what is in benchmarks/results

The results of a recipe are kept in benchmarks/results/NAME.json, one entry a seed; a seed that is run again replaces
its entry.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel, ConfigDict

from algos.maths.statistics import mean_interval
from algos.report.charts import line_chart, line_of
from algos.run_folder.read import Run, with_interval

HERE = Path(__file__).parent
STORE = HERE / "results"
PAGE = HERE / "RESULTS.md"
STYLE = (
    "<style>svg{background:#fff}text{font:11px sans-serif;fill:#444}.grid{stroke:#ddd;fill:none}"
    ".line{fill:none;stroke:#1664c0;stroke-width:2}.faint{fill:none;stroke:#1664c0;opacity:.35}"
    ".band{fill:#1664c0;opacity:.15}.dot{fill:#1664c0}.strip{fill:transparent}</style>"
)


class Recipe(BaseModel):
    """One row of the page.

    Attributes:
        config: The file in configs/ that it starts from.
        metric: Where in ``before`` and ``after`` of summary.json its score stands, dots for levels.
        curve: The metric of training that is drawn.
        target: The result that was aimed at.
        settings: Changes on the command line.
        more: Further metrics of its table.
        also_logged: Further metrics of training whose course is kept.
        note: What the numbers do not show by themselves.
    """

    model_config = ConfigDict(extra="forbid")
    title: str
    config: str
    metric: str
    curve: str
    target: str
    settings: list[str] = []
    more: list[str] = []
    also_logged: list[str] = []
    note: str = ""

    @property
    def words(self) -> list[str]:
        script = f"algos/{self.config.partition('_')[0]}.py"
        return ["python", script, "--config", f"configs/{self.config}.yaml", *self.settings]

    @property
    def command(self) -> str:
        return shlex.join(self.words)


RECIPES = {name: Recipe(**fields) for name, fields in yaml.safe_load((HERE / "recipes.yaml").read_text()).items()}


def look(result: dict[str, Any], names: list[str]) -> Any:
    """The value at ``["seats", "0", "win_rate"]`` or the like; {} where there is none."""
    return reduce(lambda found, name: found.get(name, {}), names, result)


def train(name: str, seed: int, extra: list[str]) -> None:
    """Runs a recipe with one seed and stores its results."""
    recipe = RECIPES[name]
    words = [*recipe.words, "--run.seed", str(seed), *extra]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *words[1:], "--run.dir", f"{folder}/run"], check=True, cwd=HERE.parent)
        run = Run.read(Path(folder) / "run")
    entry = {"seed": seed, "command": " ".join(words), "date": datetime.date.today().isoformat()}
    entry |= {"threads": os.environ.get("OMP_NUM_THREADS", "all"), "cores": os.cpu_count(), "cpu": platform.machine()}
    entry |= {key: run.summary[key] for key in ("steps", "episodes", "wall_s", "before", "after")}
    courses = {
        key: [[row["step"], row[key]] for row in run.metrics if key in row]
        for key in (recipe.curve, *recipe.also_logged)
    }
    entry |= {"curve": courses.pop(recipe.curve), "during": courses}
    STORE.mkdir(exist_ok=True)
    entries = [entry, *(other for other in stored(name) if other["seed"] != seed)]
    (STORE / f"{name}.json").write_text(json.dumps(sorted(entries, key=lambda one: one["seed"]), indent=1) + "\n")


def stored(name: str) -> list[dict[str, Any]]:
    file = STORE / f"{name}.json"
    return list(json.loads(file.read_text())) if file.exists() else []


def shown(result: dict[str, Any], metric: str) -> str:
    """A value with its interval, where it has one."""
    *levels, key = metric.split(".")
    part = look(result, levels)
    return with_interval(part, key, ".3g") if key in part else "-"


def over_seeds(entries: list[dict[str, Any]], when: str, metric: str) -> str:
    """The mean over seeds with its interval, where there are several."""
    values = [look(entry[when], metric.split(".")) for entry in entries]
    mean, low, high = mean_interval(values)
    return f"{mean:.3g}" + (f" [{low:.3g}, {high:.3g}]" if len(values) > 1 else "")


def write_page() -> None:
    """RESULTS.md and its pictures from the files in benchmarks/results; a recipe without one has empty cells."""
    measured = {name: stored(name) for name in RECIPES}
    for name, entries in measured.items():
        if entries:
            curve = RECIPES[name].curve
            line = line_of(curve, "main", [dict(map(tuple, entry["curve"])) for entry in entries])
            picture = str(line_chart(curve, [line])).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
            (STORE / f"{name}.svg").write_text(picture.replace(">", ">" + STYLE, 1) + "\n")
    templates = Environment(loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True)
    template = templates.get_template("results.md.jinja")
    page = template.render(recipes=RECIPES, measured=measured, shown=shown, over_seeds=over_seeds)
    PAGE.write_text(page.rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", choices=[*RECIPES, []], help="all of them by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", action="store_true", help="train nothing")
    chosen, extra = parser.parse_known_args()
    for name in [] if chosen.page else chosen.recipes or list(RECIPES):
        for seed in chosen.seeds:
            train(name, seed, extra)
            write_page()
    write_page()


if __name__ == "__main__":
    main()
