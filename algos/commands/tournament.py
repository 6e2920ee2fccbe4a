"""``llm-gym tournament``: every player against every other, Elo ratings and a cross table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from algos.commands.eval import Parser
from algos.config.load import load
from algos.config.schema import Config, EnvSection
from algos.data.tasks import EnvKey
from algos.errors import ConfigError, die
from algos.evaluation.players import PlayConfig, check_player, is_model, known_scripted, load_player
from algos.evaluation.tournament import play_all, result_of, round_robin
from algos.rollout.environments import make_aec, make_env
from algos.rollout.playing import scripted
from llm_gym import TextEnv


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


def main(argv: list[str]) -> None:
    """``--players A B ... --games ID ...``; errors are one line and exit status 2."""
    parser = Parser(prog="llm-gym tournament", description="Every player against every other.", allow_abbrev=False)
    parser.add_argument("--players", nargs="+", required=True, metavar="MODEL_OR_POLICY")
    parser.add_argument("--games", nargs="+", default=["llmgym/TicTacToe-v0"], metavar="ID")
    parser.add_argument("--rounds", type=int, default=50, help="starts a pair and game, each with both seatings")
    parser.add_argument("--temperature", type=float, default=1.0, help="of models; 0: greedy (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write ratings, cross table and games")
    given, rest = parser.parse_known_args(argv)
    try:
        names, config, games = _check(given, rest)
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
            given.json.write_text(json.dumps({**result, "names": given.players, "played": played}, indent=2) + "\n")
    except (ConfigError, OSError) as error:
        die(error)
    print("\n".join(table(result)))


def _check(given: argparse.Namespace, rest: list[str]) -> tuple[list[str], Config, list[EnvKey]]:
    """Everything that can be known to be wrong before a model loads."""
    if len(given.players) < 2 or len(set(given.players)) < len(given.players):
        raise ConfigError("--players must name two or more different players")
    if given.rounds < 1 or given.temperature < 0 or given.seed < 0:
        raise ConfigError("--rounds must be at least 1, --temperature and --seed at least 0")
    config, _, _ = load(PlayConfig, rest)
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
                    scripted(name, every_seat, np.random.default_rng(0))
                except ConfigError as error:
                    raise ConfigError(f"--players: {known_scripted(name)}: {error}") from None
    return names, config, games
