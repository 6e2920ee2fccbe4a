"""``llm-gym tournament``: every player against every other, Elo ratings and a cross table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from algos.commands import settings_of
from llm_gym.arguments import Parser, UsageError, as_words, real, whole


def add_arguments(parser: Parser) -> None:
    parser.usage = "llm-gym tournament --players A B ... [--games ID ...] [--section.key value ...] [option ...]"
    parser.epilog = (
        'example:\n  llm-gym tournament --players random minimax "mcts(20)" runs/demo --games llmgym/TicTacToe-v0'
    )
    parser.add_argument(
        "--players", nargs="+", required=True, metavar="MODEL_OR_POLICY", help="two or more models or scripted players"
    )
    parser.add_argument(
        "--games", nargs="+", default=["llmgym/TicTacToe-v0"], metavar="ID", help="default: llmgym/TicTacToe-v0"
    )
    parser.add_argument(
        "--rounds", type=whole(1), default=50, help="starts per pair and game, each with both seatings (default: 50)"
    )
    parser.add_argument("--temperature", type=real(0), default=1.0, help="of models; 0: greedy (default: 1)")
    parser.add_argument("--seed", type=whole(0), default=0, help="another set of starts (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write ratings, cross table and games")
    parser.accept_settings(settings_of("PlayConfig", "model", "env", "rollout"))


def run(given: argparse.Namespace) -> None:
    if len(given.players) < 2 or len(set(given.players)) < len(given.players):
        raise UsageError("--players must name two or more different players")
    from algos.config.load import load
    from algos.config.schema import PlayConfig

    config, _, _ = load(PlayConfig, as_words(given.settings))  # a wrong setting ends here, before torch is imported
    from accelerate import Accelerator

    from algos.evaluation.players import load_player
    from algos.evaluation.tournament import play_all, result_of, round_robin

    names, games = _check(given, config)
    accelerator = Accelerator()
    players = [load_player(name, config, accelerator, given.temperature, given.seed) for name in names]
    pairings = round_robin(games, len(players), given.rounds, given.seed)
    play_all(pairings, players, config.rollout)
    result = result_of(given.players, pairings)
    if given.json:
        played = [
            {"game": one.start.env.id, "seed": one.start.seed, "players": list(one.players), "points": one.points}
            for one in pairings
        ]
        try:
            given.json.write_text(json.dumps({**result, "names": given.players, "played": played}, indent=2) + "\n")
        except OSError as error:
            raise UsageError(str(error)) from None
    print("\n".join(table(result)))


def _check(given: argparse.Namespace, config: Any) -> tuple[list[str], list[Any]]:
    """The players and the games; refuses what can be known to be wrong before a model loads."""
    from numpy.random import default_rng

    from algos.config.schema import EnvSection
    from algos.data.tasks import EnvKey
    from algos.errors import ConfigError
    from algos.evaluation.players import check_player, is_model, known_scripted
    from algos.rollout.environments import make_aec, make_env
    from algos.rollout.playing import scripted
    from llm_gym import TextEnv

    games = [EnvKey.of(EnvSection(id=game, **config.env.settings)) for game in given.games]
    names = [check_player(name) if is_model(name) else name for name in given.players]
    for game in games:
        env = make_env(game).unwrapped
        if not isinstance(env, TextEnv) or env.game.num_players != 2:
            raise ConfigError(f"--games: {game.id} is no game for two players of llm_gym")
        every_seat = make_aec(game)
        for name in names:
            if not is_model(name):
                try:
                    scripted(name, every_seat, default_rng(0))
                except ConfigError as error:
                    raise ConfigError(f"--players: {known_scripted(name)}: {error}") from None
    return names, games


def table(result: dict[str, Any]) -> list[str]:
    """Ratings and cross table as lines; a cell is the row's score against the column in per cent."""
    names = [player["player"] for player in result["players"]]
    width = max(map(len, names))
    head = "".join(f"{f'({number})':>7}" for number in range(1, len(names) + 1))
    lines = [f"{result['games']} games", f"{'':{width + 4}}   Elo  95 % interval {head}"]
    for number, player in enumerate(result["players"], 1):
        own = result["cross"][player["player"]]
        cells = "".join(f"{100 * own[name]['score']:6.1f}%" if name in own else f"{'-':>7}" for name in names)
        ends = f"[{player['elo_low']:5.0f}, {player['elo_high']:5.0f}]"
        lines.append(f"{number:2}. {player['player']:{width}} {player['elo']:5.0f} {ends:>16} {cells}")
    return lines
