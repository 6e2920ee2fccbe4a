"""Trains the recipes and writes benchmarks/RESULTS.md: each before and after, with intervals, seeds, steps and times.

    python benchmarks/results.py                          # every recipe, three seeds each: hours
    python benchmarks/results.py spiral_kuhn --seeds 0 1  # one of them; the rest of the page stays
    python benchmarks/results.py --page                   # the page alone, from what is in benchmarks/results

What a recipe gave is kept in benchmarks/results/NAME.json, one entry a seed; running a seed again replaces its entry.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algos.maths.statistics import mean_interval
from algos.report.charts import line_chart, line_of

HERE = Path(__file__).parent
STORE = HERE / "results"
PAGE = HERE / "RESULTS.md"
STYLE = (
    "<style>svg{background:#fff}text{font:11px sans-serif;fill:#444}.grid{stroke:#ddd;fill:none}"
    ".line{fill:none;stroke:#1664c0;stroke-width:2}.faint{fill:none;stroke:#1664c0;opacity:.35}"
    ".band{fill:#1664c0;opacity:.15}.dot{fill:#1664c0}.strip{fill:transparent}</style>"
)


@dataclass(frozen=True)
class Recipe:
    """One row of the page.

    Attributes:
        config: The file in configs/ that it starts from.
        settings: What is changed on the command line.
        figure: Where in ``before`` and ``after`` of summary.json its score stands, dots for levels.
        curve: The metric that is drawn.
        also_during: Other metrics of the run whose course matters.
        target: The line it is held against.
        note: What the figures do not say by themselves.
    """

    title: str
    config: str
    figure: str
    curve: str
    target: str
    settings: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    also_during: tuple[str, ...] = ()
    note: str = ""

    @property
    def command(self) -> list[str]:
        algorithm = self.config.split("_")[0]
        return ["python", f"algos/{algorithm}.py", "--config", f"configs/{self.config}.yaml", *self.settings]


RECIPES = {
    "grpo_tictactoe": Recipe(
        "GRPO, tic-tac-toe, self-play, against random (the demo)",
        "grpo_tictactoe_selfplay_tiny",
        "win_rate",
        "eval/win_rate",
        "wins 0.85, losses 0.05",
        more=("loss_rate", "invalid_rate", "seats.0.win_rate", "seats.1.win_rate"),
    ),
    "grpo_tictactoe_minimax": Recipe(
        "GRPO, tic-tac-toe, against minimax",
        "grpo_tictactoe_tiny",
        "draw_rate",
        "reward/mean",
        "draws 0.9",
        (
            *("--env.opponent", "minimax", "--run.max_steps", "500"),
            *("--grpo.kl_direction", "forward", "--grpo.kl_coef", "0.05"),
        ),
        more=("loss_rate", "seats.0.draw_rate", "seats.1.draw_rate"),
        note="With the reverse divergence, from 0.1 to 0.01, O drew 88.6, 88.6 and 86.8 %.",
    ),
    "spiral_tictactoe": Recipe(
        "SPIRAL, tic-tac-toe, self-play: losses to random",
        "spiral_tictactoe_tiny",
        "loss_rate",
        "eval/loss_rate",
        "losses 0.05",
        more=("win_rate", "extra.minimax.loss_rate"),
        also_during=("minimax/loss_rate",),
        note="With a warm start that learns the replies only, and half the learning rate, it took 400 steps to 0.7 and "
        "0.4 % lost to random, 0.5 and 1.1 % to minimax (seeds 0 and 1); at step 200 of them 7.8 % was lost to random.",
    ),
    "spiral_kuhn": Recipe(
        "SPIRAL, Kuhn poker, self-play: NashConv", "spiral_kuhn_tiny", "nash_conv", "eval/nash_conv", "0.1"
    ),
    "spiral_connectfour": Recipe(
        "SPIRAL, Connect Four, self-play: wins against random",
        "spiral_connectfour_tiny",
        "win_rate",
        "reward/mean",
        "wins 0.9, above 0.5 against MCTS(10)",
        more=("loss_rate", "invalid_rate", "extra.mcts.win_rate"),
        note="Legal actions are shown. An invalid reply is a column that is full. Of what it stops losing there, it "
        "loses a part to random's lines.",
    ),
    "spiral_negotiation": Recipe(
        "SPIRAL, negotiation, self-play: return against greedy",
        "spiral_negotiation_tiny",
        "mean_return",
        "parse/ok",
        "none set",
        more=("invalid_rate",),
        note="Four turns a game. Few games of training are won: about 4 % at first, about 1 % at the end.",
    ),
    "spiral_mixed": Recipe(
        "SPIRAL, three games mixed: losses to random at tic-tac-toe",
        "spiral_mixed_tiny",
        "loss_rate",
        "parse/ok",
        "none set",
        more=("win_rate", "invalid_rate", "extra.kuhn.mean_return", "extra.negotiation.mean_return"),
    ),
    "ppo_password": Recipe(
        "PPO, Password Game, rules 0-9: rules kept",
        "ppo_password_tiny",
        "rules_satisfied",
        "reward/rules",
        "8 of 10",
        note="It settles on 6 to 15 passwords in 1,000, of nine rules; it misses the CAPTCHA, which differs each time. "
        "Twice the warm start would be 11.7 of 10 rules.",
    ),
    "grpo_password": Recipe(
        "GRPO, Password Game, all 26 rules: rules kept",
        "grpo_password_tiny",
        "rules_satisfied",
        "reward/rules",
        "15 of 26",
    ),
    "grpo_code": Recipe(
        "GRPO, code execution: programs that run and print",
        "grpo_code_tiny",
        "success_rate",
        "outcome/solved",
        "0.97 of 1,000, 100 different programs in 500",
        more=("distinct_replies",),
    ),
    "grpo_prediction": Recipe(
        "GRPO, prediction game: the generator's wins",
        "grpo_prediction_tiny",
        "win_rate",
        "outcome/win",
        "+0.25",
        more=("distinct_replies",),
        note="Every win is a program that the sandbox ran twice. It settles on few: 37 to 53 in 1,000, from 866.",
    ),
    "grpo_prediction_both": Recipe(
        "GRPO, prediction game, both seats learning: the generator's wins against the scripted predictor",
        "grpo_prediction_tiny",
        "win_rate",
        "outcome/win_seat_0",
        "neither seat collapses in 500 steps",
        (
            *("--grpo.seats", "all", "--run.max_steps", "500", "--rollout.episodes", "32", "--optim.lr", "1e-4"),
            *("--run.save_every", "250"),
            *("--eval.extra", "[{name: predictor, seat: 1, opponent: reference, episodes: 500}]"),
        ),
        more=("distinct_replies", "extra.predictor.win_rate"),
        note="The curve is the generator's share of wins against the policy's own predictor: 0.5 at first, 0.98 or "
        "more from step 400 on. That seat collapses: a model of this size foresees 1 to 2 % of fair programs, "
        "before training and after, so any fair program wins. The scripted predictor foresees every program "
        "of one line, and comes to win nearly always.",
    ),
    "grpo_mbpp": Recipe(
        "GRPO, MBPP (own 20 training tasks): tasks solved",
        "grpo_mbpp_tiny",
        "success_rate",
        "outcome/solved",
        "none set",
        more=("extra.held_out.success_rate",),
    ),
}


def look(result: dict[str, Any], path: str) -> Any:
    """The value at ``seats.0.win_rate`` or the like; None where there is none."""
    found: Any = result
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def train(name: str, seed: int, extra: list[str]) -> None:
    """Runs a recipe with one seed and puts what came of it into its file."""
    recipe = RECIPES[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*recipe.command, "--run.seed", str(seed), *extra]
        subprocess.run([sys.executable, *command[1:], "--run.dir", str(run)], check=True, cwd=HERE.parent)
        summary = json.loads((run / "summary.json").read_text())
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    file = STORE / f"{name}.json"
    kept = json.loads(file.read_text()) if file.exists() else []
    entry = {"seed": seed, "command": " ".join(command), "date": datetime.date.today().isoformat()}
    entry |= {"threads": os.environ.get("OMP_NUM_THREADS", "all"), "cores": os.cpu_count(), "cpu": platform.machine()}
    entry |= {key: summary[key] for key in ("steps", "episodes", "wall_s", "before", "after")}
    entry["curve"] = [[line["step"], line[recipe.curve]] for line in metrics if recipe.curve in line]
    entry["during"] = {
        name: [[line["step"], line[name]] for line in metrics if name in line] for name in recipe.also_during
    }
    STORE.mkdir(exist_ok=True)
    others = [other for other in kept if other["seed"] != seed]
    file.write_text(json.dumps(sorted([*others, entry], key=lambda one: int(one["seed"])), indent=1) + "\n")


def shown(entry: dict[str, Any], figure: str) -> str:
    """A figure with its interval, where it has one."""
    value, low, high = (look(entry, figure + end) for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:.3g}" if low is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def write_page() -> None:
    """RESULTS.md from the files in benchmarks/results; a recipe without one has empty cells."""
    lines = [
        "# Results",
        "",
        "Every recipe on the embedded model of a million parameters, trained on a CPU. Written by `make results` "
        "(`benchmarks/results.py`); each row can be repeated with the command under it. From and to are of the runs' "
        "own evaluations before and after training, the mean over seeds with Student's 95 % interval over them where "
        "there are several; the seeds' own figures are below, with the intervals over games. An empty cell has not "
        "been measured. Minutes are wall time, most of them with several recipes sharing two cores.",
        "",
        "| recipe | from | to | held against | seeds | steps | minutes |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    details: list[str] = []
    for name, recipe in RECIPES.items():
        file = STORE / f"{name}.json"
        entries = json.loads(file.read_text()) if file.exists() else []
        if not entries:
            lines.append(f"| {recipe.title} | | | {recipe.target} | 0 | | |")
            continue
        cells = []
        for when in ("before", "after"):
            values = [look(entry[when], recipe.figure) for entry in entries]
            mean, low, high = mean_interval(values)
            cells.append(f"{mean:.3g}" + (f" [{low:.3g}, {high:.3g}]" if len(values) > 1 else ""))
        minutes = sum(entry["wall_s"] for entry in entries) / len(entries) / 60
        anchor = name.replace("_", "-")
        cells += [recipe.target, str(len(entries)), str(entries[0]["steps"]), f"{minutes:.1f}"]
        lines.append(f"| [{recipe.title}](#{anchor}) | {' | '.join(cells)} |")
        curves = [dict(map(tuple, entry["curve"])) for entry in entries]
        picture = line_chart(recipe.curve, [line_of(recipe.curve, "main", curves)])
        picture = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        (STORE / f"{name}.svg").write_text(picture.replace(">", ">" + STYLE, 1) + "\n")
        details += [
            "",
            f"## {anchor}",
            "",
            f"{recipe.title}. {recipe.note}".strip(),
            "",
            f"![{recipe.curve}](results/{name}.svg)",
        ]
        details += ["", f"`{recipe.curve}` over steps. " + "".join(f"`{' '.join(recipe.command)}`"), ""]
        figures = [recipe.figure, *recipe.more]
        details += ["| seed | " + " | ".join(f"{f} before | after" for f in figures) + " | date, threads |"]
        details += ["| ---: |" + " ---: | ---: |" * len(figures) + " --- |"]
        for entry in entries:
            pairs = [f"{shown(entry['before'], f)} | {shown(entry['after'], f)}" for f in figures]
            details.append(f"| {entry['seed']} | {' | '.join(pairs)} | {entry['date']}, {entry['threads']} |")
        for metric, seed, course in ((n, e["seed"], c) for e in entries for n, c in e.get("during", {}).items()):
            steps = ", ".join(f"{value:.3g} after {step} steps" for step, value in course)
            details += ["", f"Seed {seed}, `{metric}`: {steps}."]
    PAGE.write_text("\n".join([*lines, *details]) + "\n")


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
