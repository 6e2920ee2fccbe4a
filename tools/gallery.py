"""Writes ``docs/environments.md``, the page of all environments: ``python -m tools.gallery``.

It plays the reference games, saves their scores in ``docs/environments.json``, and renders the page from the code and
the scores. The tests render the page again and replay the first games of every score, so neither can become outdated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import gymnasium
import numpy as np

from llm_gym import GAMES, TextEnv
from llm_gym.opponents import Player, make_player
from llm_gym.opponents.scripted import Step, play_scripted, scripted_replies

REFERENCE_GAMES = 200
SEARCH_GAMES = 50
FEWER_REFERENCE_GAMES = {"Chess": 50}
# Where fifty simulations per move would take too long: the search used instead, and its number of games.
SLOW_SEARCH = {
    "Backgammon": ("mcts(5)", 10),
    "Checkers": ("mcts(50)", 20),
    "Chess": ("mcts(5)", 10),
    "GinRummy": ("ismcts(5)", 10),
    "Go": ("mcts(50)", 30),
    "Othello": ("mcts(50)", 20),
}
EXACT = {"KuhnPoker": "nash", "LeducPoker": "nash", "Nim": "minimax", "OpenSpiel": "minimax", "TicTacToe": "minimax"}
KEPT_RETURNS = 10
SAMPLE_SEED, SAMPLE_TURNS = 1, 3
SAMPLE_LINES, SAMPLE_CHARS = 32, 1500

HEAD = """\
# The environments

Written by `python -m tools.gallery` from the code and from {games:,} games; do not edit by hand.

Make an environment with `gymnasium.make("llmgym/<name>-v0")` after `import llm_gym`. Returns are those of a game played
by the rules. Under `on_invalid="lose"` (the default) an invalid reply ends the game: -1.5 to the player who gave it,
+0.5 to the others. A turn is one reply of the agent; the table shows the turns of the first reference player. Scores
are against the id's default opponent, from each seat in turn: the share of games won (single-player: solved) with its
95 % Wilson interval, and the mean return with 1.96 standard errors.

| id | seats | hidden | chance | reply | return | turns: median (least to most) |
| --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Score:
    """What a reference player scored in the games of seeds 0, 1, 2, ...

    Attributes:
        games: Number of games.
        won: How many were won, or solved.
        drawn: How many were drawn.
        mean: Mean return.
        deviation: Standard deviation of the return.
        turns: Median, least and most turns of the agent.
        first: The returns of the first games, which a test plays again.
    """

    games: int
    won: int
    drawn: int
    mean: float
    deviation: float
    turns: tuple[float, int, int]
    first: list[float]


Scores = dict[str, dict[str, Score]]
"""Name of an id -> name of a reference player -> its score."""


def make_env(name: str) -> TextEnv:
    """The environment as registered, but with the agent's seat alternating."""
    env = gymnasium.make(f"llmgym/{name}-v0").unwrapped
    seat: int | str = 0
    if isinstance(env, TextEnv) and env.game.num_players > 1:
        seat = "alternate"
    made = gymnasium.make(f"llmgym/{name}-v0", seat=seat).unwrapped
    assert isinstance(made, TextEnv)
    return made


def reference_players(name: str) -> dict[str, int]:
    """The scripted players whose scores are shown for an id -> how many games each plays."""
    env = make_env(name)
    env.reset(seed=0)
    listed = env.game.legal_actions() is not None
    named = [*(["random", "first"] if listed else []), *env.game.players, *([EXACT[name]] if name in EXACT else [])]
    players = dict.fromkeys(named, FEWER_REFERENCE_GAMES.get(name, REFERENCE_GAMES))
    if env.game.dense_reward or not listed:  # tree search uses the returns at the end only
        return players
    search, games = SLOW_SEARCH.get(name, ("mcts(50)" if env.game.perfect_information else "ismcts(50)", SEARCH_GAMES))
    try:
        make_player(search, env.game)
    except ValueError:  # it cannot play this game
        return players
    return {**players, search: games}


def play(env: TextEnv, player: Player, seed: int) -> Iterator[Step]:
    """One game, turn by turn of the agent."""
    return play_scripted(env, scripted_replies(env.match, player, np.random.default_rng(seed)), env.reset(seed=seed))


def returns_and_outcomes(name: str, player: str, games: int) -> list[tuple[float, str, int]]:
    """The agent's return, the outcome and the number of turns in each of the first ``games`` games."""
    env = make_env(name)
    scripted = make_player(player, env.game)
    results = []
    for seed in range(games):
        turns = sum(1 for _ in play(env, scripted, seed))
        results.append((round(env.match.returns()[env.seat], 6), env.match.outcome(env.seat), turns))
    return results


def score(name: str, player: str, games: int) -> Score:
    """Plays the reference games of one player."""
    returns, outcomes, turns = zip(*returns_and_outcomes(name, player, games))
    return Score(
        games=games,
        won=sum(outcome in ("win", "solved") for outcome in outcomes),
        drawn=outcomes.count("draw"),
        mean=round(statistics.fmean(returns), 6),
        deviation=round(statistics.stdev(returns), 6),
        turns=(statistics.median(turns), min(turns), max(turns)),
        first=list(returns[:KEPT_RETURNS]),
    )


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of Wilson (1927) for a proportion, by default at 95 %."""
    share, width = successes / trials, z * z / trials
    centre = (share + width / 2) / (1 + width)
    reach = z / (1 + width) * math.sqrt(share * (1 - share) / trials + width / trials / 4)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)


def render(scores: Scores) -> str:
    """The page."""
    games = sum(entry.games for by_player in scores.values() for entry in by_player.values())
    rows, sections = [], []
    for name in GAMES:
        env = make_env(name)
        rows.append(_row(name, env, scores[name]))
        sections.append(_section(name, env, scores[name]))
    return HEAD.format(games=games) + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _row(name: str, env: TextEnv, scores: dict[str, Score]) -> str:
    game = env.game
    low, high = game.reward_range
    median, least, most = next(iter(scores.values())).turns
    cells = [
        f"[{name}](#{name.lower()})",
        str(game.num_players),
        "no" if game.perfect_information else "yes",
        "yes" if game.has_chance else "no",
        " / ".join(dict.fromkeys(env.match.formats)),
        f"{low:g} to {high:g}",
        f"{median:g} ({least} to {most})",
    ]
    return f"| {' | '.join(cells)} |"


def _section(name: str, env: TextEnv, scores: dict[str, Score]) -> str:
    settings = {key: value for key, value in GAMES[name].items() if key not in ("text_game", "opponent")}
    source = type(env.game).__module__.replace(".", "/")
    facts = [f"`llmgym/{name}-v0`", f"[source](../{source}.py)"]
    if env.game.num_players > 1:
        facts.append(f"default opponent `{GAMES[name].get('opponent', 'random')}`")
    if settings:
        facts.append(", ".join(f"`{key}={value!r}`" for key, value in settings.items()))
    player = next(iter(env.game.players), "random")
    *_, sample = islice(play(env, make_player(player, env.game), SAMPLE_SEED), SAMPLE_TURNS)
    lines = [
        f"## {name}",
        ", ".join(facts) + ".",
        f"System message:\n\n{_block(env.match.systems[env.seat])}",
        f"An observation:\n\n{_block(_shorten(sample.observation))}",
        f"A reply:\n\n{_block(sample.reply)}" if "\n" in sample.reply else f"A reply: `{sample.reply}`",
        "| player | games | won or solved | drawn | mean return |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(_score_row(player, entry) for player, entry in scores.items()),
    ]
    return "\n\n".join(lines) + "\n"


def _block(text: str) -> str:
    """``text`` in a fence that no fence inside it closes."""
    fence = "````" if "```" in text else "```"
    return f"{fence}text\n{text}\n{fence}"


def _shorten(text: str) -> str:
    short = "\n".join(line.rstrip() for line in text[:SAMPLE_CHARS].splitlines()[:SAMPLE_LINES])
    lost = len(text) > SAMPLE_CHARS or len(text.splitlines()) > SAMPLE_LINES
    return f"{short}\n... ({len(text):,} characters in all)" if lost else short


def _score_row(player: str, entry: Score) -> str:
    low, high = wilson(entry.won, entry.games)
    error = 1.96 * entry.deviation / math.sqrt(entry.games)
    won = f"{entry.won / entry.games:.0%} ({100 * low:.0f} to {100 * high:.0f})"
    return f"| {player} | {entry.games} | {won} | {entry.drawn / entry.games:.0%} | {entry.mean:.2f} ± {error:.2f} |"


def load(path: Path) -> tuple[Scores, str]:
    """The saved scores, and the version of OpenSpiel that they were played with."""
    kept = json.loads(path.read_text())
    scores = {
        name: {player: Score(**{**entry, "turns": tuple(entry["turns"])}) for player, entry in by_player.items()}
        for name, by_player in kept["scores"].items()
    }
    return scores, kept["open_spiel"]


def save(scores: Scores, path: Path) -> None:
    """Saves the scores, one per line."""
    lines = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(player)}: {json.dumps(asdict(entry))}" for player, entry in by_player.items())
        + "\n}"
        for name, by_player in scores.items()
    ]
    opening = f'{{"open_spiel": {json.dumps(version("open_spiel"))}, "scores": {{\n'
    path.write_text(opening + ",\n".join(lines) + "\n}}\n")


def main() -> None:
    """Plays the reference games and writes the page and its scores."""
    parser = argparse.ArgumentParser(prog="python -m tools.gallery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder to write to (default: docs)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="replay only these ids (none: rewrite the text only)")
    arguments = parser.parse_args()
    page, kept = arguments.docs / "environments.md", arguments.docs / "environments.json"
    scores = load(kept)[0] if arguments.only is not None else {}
    for name in GAMES if arguments.only is None else arguments.only:
        scores[name] = {player: score(name, player, games) for player, games in reference_players(name).items()}
        print(f"{name}: {', '.join(scores[name])}")
    scores = {name: scores[name] for name in GAMES}
    save(scores, kept)
    page.write_text(render(scores))


if __name__ == "__main__":
    main()
