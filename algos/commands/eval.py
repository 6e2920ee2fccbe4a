"""``llm-gym eval``: a model or a scripted player on environments, with intervals, or exactly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from algos.commands import settings_of
from llm_gym.arguments import Parser, UsageError, as_words, real, whole

if TYPE_CHECKING:
    from algos.config.schema import PlayConfig

FROM_RUN = ("context", "max_new_tokens", "max_turns", "max_prompt_tokens", "thinking")
EXAMPLES = """\
examples:
  llm-gym eval --model runs/demo --env llmgym/TicTacToe-v0 --env.opponent minimax --episodes 1000
  llm-gym eval --policy reference --env llmgym/MBPP-v0 --env.split test --episodes all
  llm-gym eval --model A --against B --env llmgym/LeducPoker-v0 --episodes 400
  llm-gym eval --policy uniform --env llmgym/KuhnPoker-v0 --exact
"""


def add_arguments(parser: Parser) -> None:
    parser.usage = "llm-gym eval (--model PATH | --policy NAME) [--env ID ...] [--section.key value ...] [option ...]"
    parser.epilog = EXAMPLES
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--model", metavar="PATH", help="a Hugging Face folder or id, a run's folder or checkpoint, or tiny"
    )
    who.add_argument(
        "--policy", metavar="NAME", help="a scripted player: random, minimax, mcts, solver, reference, uniform, ..."
    )
    parser.add_argument("--against", metavar="MODEL_OR_POLICY", help="a second player on the same starts, compared")
    parser.add_argument("--env", nargs="+", metavar="ID", help="one environment or several")
    parser.add_argument("--opponent", help="the same as --env.opponent")
    parser.add_argument("--seat", help="the same as --env.seat (default: every seat in turn)")
    parser.add_argument(
        "--episodes",
        type=lambda text: text if text == "all" else whole(1)(text),
        default=400,
        help="number of starts, or all: each task of a data set (default: 400)",
    )
    parser.add_argument("--samples", type=whole(1), default=1, help="episodes per start; several give pass@k")
    parser.add_argument("--temperature", type=real(0), default=1.0, help="0: greedy (default: 1)")
    parser.add_argument("--seed", type=whole(0), default=0, help="another set of starts (default: 0)")
    parser.add_argument("--exact", action="store_true", help="exact values and NashConv on the whole game tree")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as a JSON list")
    parser.add_argument("--details", type=Path, metavar="FILE", help="write one JSON line per episode")
    parser.accept_settings(settings_of("PlayConfig", "model", "env", "rollout"))


def run(given: argparse.Namespace) -> None:
    config = config_of(given, None)  # a wrong setting ends here, before torch is imported
    from algos.evaluation.players import check_player, is_model, run_of
    from algos.evaluation.standalone import evaluate_all, table

    if given.model:
        config = config_of(given, run_of(given.model))
        given.model = check_player(given.model)
    if given.against and is_model(given.against):
        given.against = check_player(given.against)
    try:
        results = evaluate_all(given, config, given.env or [config.env.id])
    except OSError as error:
        raise UsageError(str(error)) from None
    for result in results:
        print("\n".join(table(result)))


def config_of(given: argparse.Namespace, of_run: Path | None) -> PlayConfig:
    """The settings of the player; a run brings its rollout limits, and its environment if none is named."""
    from algos.config.load import load
    from algos.config.schema import PlayConfig

    short = [(f"env.{name}", text) for name in ("opponent", "seat") if (text := getattr(given, name))]
    settings = as_words([*given.settings, *short])
    return load(PlayConfig, [*_as_in_run(of_run, bool(given.env)), *settings])[0]


def _as_in_run(run: Path | None, env_named: bool) -> list[str]:
    """The settings of a run's config.yaml, as arguments."""
    from algos.config.help import as_yaml
    from algos.config.load import read_yaml

    if run is None or not (run / "config.yaml").exists():
        return []
    told = read_yaml(run / "config.yaml")
    kept = {f"rollout.{name}": told["rollout"][name] for name in FROM_RUN}
    if not env_named:
        kept |= {f"env.{name}": value for name, value in {**told["env"], **told["eval"]["env"]}.items()}
    return as_words((name, as_yaml(value)) for name, value in kept.items())
