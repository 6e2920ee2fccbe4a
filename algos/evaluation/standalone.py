"""Evaluation outside of a run: a model or a scripted player on environments, with intervals, or exactly."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import gymnasium
import torch
from accelerate import Accelerator

from algos.config.schema import Config, EnvSection
from algos.data.tasks import EnvKey
from algos.errors import ConfigError
from algos.evaluation.evaluator import exact_metrics, play, result_of, write_details
from algos.evaluation.exact.game_tree import State, walk
from algos.evaluation.exact.values import exact, uniform
from algos.evaluation.plan import Evaluation
from algos.evaluation.players import is_model, known_scripted, load_player, run_of
from algos.evaluation.score import compare
from algos.rollout.environments import make_env
from algos.rollout.playing import ModelPlayer, Player
from algos.rollout.single_agent import EpisodeRunner

Json = dict[str, Any]
EXACT_POLICIES = ("uniform", "random", "first")


def evaluate_all(given: argparse.Namespace, config: Config, envs: Sequence[str]) -> list[Json]:
    """One result an environment, written where the arguments want them; of the main process."""
    evaluations = [_evaluation(env, given, config) for env in envs]
    for one in evaluations:
        if given.exact:
            _tree_of(one)
        one.starts()
    names = [name for name in (given.model or given.policy, given.against) if name]
    for name in names[0 if given.policy else 1 :]:
        if not is_model(name):
            _check_scripted(name, evaluations, given.exact and name == given.policy)
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[config.model.dtype]
    accelerator = Accelerator(mixed_precision=precision)
    players = [load_player(name, config, accelerator, given.temperature) for name in names]
    results: list[Json] = []
    for one in evaluations:
        starts = one.starts(given.seed)
        runner, parallel = EpisodeRunner(one.rollout), one.rollout.episodes
        sets = [play(runner, player, starts, accelerator, parallel, given.seed, bar=True) for player in players]
        result = {"env": one.env.id, "policy": names[0], "opponent": _opponent(one.env), "settings": one.env.kwargs}
        result |= {"temperature": given.temperature, "seed": given.seed, "samples": given.samples}
        result |= result_of(one, sets[0])
        if given.exact:
            result |= _exact(one, players[0], given, accelerator)
        if given.against:
            result["against"] = {"policy": names[1], **_rates(result_of(one, sets[1]))}
            result["against"] |= compare(sets[0], sets[1], given.samples)
        if given.details and accelerator.is_main_process:
            where = given.details if len(envs) == 1 else given.details.with_stem(f"{given.details.stem}_{len(results)}")
            write_details(where, sets[0], given.samples)
        results.append(result)
    if accelerator.is_main_process:
        _write(results, given)
    return results if accelerator.is_main_process else []


def _evaluation(env: str, given: argparse.Namespace, config: Config) -> Evaluation:
    """Every seat in turn, where there are several and none is asked for."""
    settings = config.env.settings
    game: Any = getattr(make_env(EnvSection(id=env, **settings)).unwrapped, "game", None)
    if getattr(game, "num_players", 1) > 1:
        settings = {"seat": "alternate", **settings}
    spec = EnvKey.of(EnvSection(id=env, **settings))
    episodes: Any = given.episodes if given.episodes == "all" else int(given.episodes)
    return Evaluation("--episodes", spec, episodes, given.temperature, config.rollout, given.samples)


def _check_scripted(name: str, evaluations: Sequence[Evaluation], exactly: bool) -> None:
    """Tries the player out in one start of each environment."""
    for one in evaluations:
        try:
            EpisodeRunner(one.rollout).play(one.starts()[:1], [[name]])
        except ConfigError as error:
            raise ConfigError(f"{known_scripted(name)}: {error}" if "must be one of" in str(error) else error) from None
    if exactly and name not in EXACT_POLICIES:
        raise ConfigError(f"--exact knows the move probabilities of models and of {', '.join(EXACT_POLICIES)}")


def _tree_of(one: Evaluation) -> Any:
    env: Any = make_env(one.env).unwrapped
    if one.rollout.context != "turn":
        raise ConfigError("--exact: a player's past replies are part of its prompts: set --rollout.context turn")
    try:
        return walk(getattr(env, "match", env))
    except ValueError as error:
        raise ConfigError(f"--exact: {error}") from None


def first(states: Sequence[State]) -> list[dict[str, float]]:
    """The policy that plays the first legal action."""
    return [{state.legal[0]: 1.0} for state in states]


def _exact(one: Evaluation, player: Player, given: argparse.Namespace, accelerator: Accelerator) -> Json:
    tree = _tree_of(one)
    if not isinstance(player, ModelPlayer):
        found = exact(tree, first if player == "first" else uniform)
        return {"nash_conv": found["nash_conv"], "exact": found}
    with torch.no_grad(), accelerator.autocast():
        return exact_metrics(tree, player.engine.model, player.chat, given.temperature)


def _opponent(env: EnvKey) -> Any:
    kwargs = gymnasium.spec(env.id).kwargs
    made: Any = make_env(env).unwrapped
    several = getattr(getattr(made, "game", None), "num_players", 1) > 1
    return {"opponent": "random", **kwargs, **env.kwargs}["opponent"] if several else None


def _rates(result: Json) -> Json:
    return {key: value for key, value in result.items() if key.startswith(("success_rate", "mean_return"))}


def _write(results: list[Json], given: argparse.Namespace) -> None:
    """The JSON list, and where the model is a run's a line for each result in the run's folder."""
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    run = run_of(given.model) if given.model else None
    if run:
        file = run / "evaluations" / "results.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as lines:
            lines.writelines(json.dumps(result) + "\n" for result in results)


def table(result: Json) -> list[str]:
    """A result as lines: one for all seats, one for each, then the other figures."""
    title = f"{result['policy']} on {result['env']}" + (f" against {result['opponent']}" if result["opponent"] else "")
    head = ("seat", "episodes", "win", "draw", "loss", "invalid", "mean return", "turns")
    rows = [head, _row("all", result), *(_row(seat, part) for seat, part in result.get("seats", {}).items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "",
        title,
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows),
    ]
    shown = {*(f"{name}_rate" for name in ("win", "draw", "loss", "invalid")), "mean_return", "mean_turns", "episodes"}
    for key, value in result.items():
        plain = isinstance(value, int | float) and not isinstance(value, bool) and not key.endswith(("_low", "_high"))
        if plain and key not in (*shown, "seed", "samples", "temperature"):
            lines.append(f"  {key}: {_interval(result, key)}")
        elif key.endswith("_rates"):
            lines.append(f"  {key}: " + " ".join(f"{number}:{rate:.2f}" for number, rate in enumerate(value)))
    for key, value in result.get("exact", {}).items():
        if isinstance(value, list):
            lines.append(f"  {key}, seats 0 and 1: {value[0]:+.6f} {value[1]:+.6f}")
    return lines + (_comparison(result) if "against" in result else [])


def _row(seat: str, part: Json) -> tuple[str, ...]:
    rates = [
        f"{part[f'{name}_rate']:.1%} [{part[f'{name}_rate_low']:.1%}, {part[f'{name}_rate_high']:.1%}]"
        for name in ("win", "draw", "loss", "invalid")
    ]
    return seat, str(part["episodes"]), *rates, _interval(part, "mean_return"), f"{part['mean_turns']:.2f}"


def _interval(part: Json, key: str) -> str:
    ends = f" [{part[f'{key}_low']:.4g}, {part[f'{key}_high']:.4g}]" if f"{key}_low" in part else ""
    return f"{part[key]:.7g}{ends}"


def _comparison(result: Json) -> list[str]:
    other = result["against"]
    return [
        f"  against {other['policy']}: success {other['success_rate']:.4g}, mean return {other['mean_return']:.4g}",
        f"  difference in success {other['success_difference']:+.4f}: {other['better']} starts better, "
        f"{other['worse']} worse, p = {other['success_p']:.3g} (McNemar, exact)",
        f"  difference in return {other['return_difference']:+.4f} [{other['return_difference_low']:+.4f}, "
        f"{other['return_difference_high']:+.4f}], p = {other['return_p']:.3g} (paired permutation)",
    ]
