"""The page of environments is what the code gives, and its scores are what the players score."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from llm_gym import GAMES
from tools.gallery import load, reference_players, render, returns_and_outcomes, score, wilson

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "environments.md").read_text()
SCORES, OPEN_SPIEL = load(DOCS / "environments.json")
REGENERATE = "run `python -m tools.gallery`"
REPLAYED, REPLAYED_OF_SEARCH = 10, 2

same_openspiel = pytest.mark.skipif(
    version("open_spiel") != OPEN_SPIEL, reason=f"the page was made with OpenSpiel {OPEN_SPIEL}, whose texts may differ"
)


@same_openspiel
def test_page_is_what_the_code_and_the_kept_scores_give():
    assert render(SCORES) == PAGE, REGENERATE


@same_openspiel
@pytest.mark.parametrize("name", GAMES)
def test_first_games_of_every_score_come_out_as_kept(name):
    for player, kept in SCORES[name].items():
        count = min(len(kept.first), REPLAYED_OF_SEARCH if "(" in player else REPLAYED)
        played = returns_and_outcomes(name, player, count)
        assert [result[0] for result in played] == kept.first[:count], f"{player}: {REGENERATE}"


@pytest.mark.parametrize("name", GAMES)
def test_every_id_has_its_section_and_all_its_players(name):
    assert {player: kept.games for player, kept in SCORES[name].items()} == reference_players(name), REGENERATE
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    for part in (f"`llmgym/{name}-v0`", "System message:\n\n```", "An observation:\n\n```", "A reply:"):
        assert part in section[1]
    rows = re.findall(r"^\| (\S+) \| (\d+) \| (\d+)% \((\d+) to (\d+)\) ", section[1], re.MULTILINE)
    assert [row[0] for row in rows] == list(SCORES[name])
    for _, games, won, low, high in rows:
        assert int(low) <= int(won) <= int(high)
        assert int(games) >= 10
    assert (DOCS / re.search(r"\[source\]\((.*?)\)", section[1])[1]).is_file()


def test_no_id_on_the_page_is_unknown():
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == list(GAMES)
    assert list(SCORES) == list(GAMES)


def test_scores_of_perfect_players_are_what_theory_says():
    perfect = SCORES["TicTacToe"]["minimax"]
    assert perfect.won + perfect.drawn == perfect.games
    solver = SCORES["PasswordGame"]["solver"]
    assert solver.won == solver.games


def test_a_score_sums_up_the_games():
    results = returns_and_outcomes("TicTacToe", "random", 30)
    found = score("TicTacToe", "random", 30)
    returns = [result[0] for result in results]
    assert (found.won, found.drawn) == (returns.count(1.0), returns.count(0.0))
    assert found.mean == pytest.approx((returns.count(1.0) - returns.count(-1.0)) / 30, abs=1e-6)
    assert found.first == returns[:10]


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_matches_newcombes_table(successes, trials, interval):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(successes, trials) == pytest.approx(interval, abs=5e-5)
