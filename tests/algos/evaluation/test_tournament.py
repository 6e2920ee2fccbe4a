"""Ratings against the model that made the games; a round robin plays what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algos.config.schema import RolloutSection
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.evaluation.tournament import (
    Pairing,
    elo,
    play_all,
    points_of,
    ratings_with_intervals,
    result_of,
    round_robin,
)
from algos.model.chat import Chat
from algos.model.load import load_model
from algos.rollout.playing import ModelPlayer
from llm_gym import cli

GAME = EnvKey("llmgym/TicTacToe-v0")


def test_two_players_differ_by_the_logit_of_their_score() -> None:
    ratings = elo(np.array([[0.0, 750.0], [250.0, 0.0]]), np.array([[0.0, 1000.0], [1000.0, 0.0]]))
    assert ratings.mean() == pytest.approx(1500)
    assert ratings[0] - ratings[1] == pytest.approx(400 * np.log10(750.5 / 250.5), abs=1e-3)


def drawn(truth: list[float], games: int, rng: np.random.Generator) -> list[list[list[float]]]:
    points: list[list[list[float]]] = [[[] for _ in truth] for _ in truth]
    for i in range(len(truth)):
        for j in range(i + 1, len(truth)):
            chance = 1 / (1 + 10 ** ((truth[j] - truth[i]) / 400))
            points[i][j] = rng.binomial(1, chance, games).astype(float).tolist()
            points[j][i] = [1 - point for point in points[i][j]]
    return points


def test_ratings_come_back_from_games_drawn_by_them_and_intervals_hold_them() -> None:
    truth, rng = [1700.0, 1550.0, 1400.0, 1350.0], np.random.default_rng(0)
    held = []
    for _ in range(30):
        rated = ratings_with_intervals(drawn(truth, 80, rng))
        held += [r["elo_low"] <= t <= r["elo_high"] for r, t in zip(rated, truth, strict=True)]
    assert np.mean(held) > 0.88
    many = ratings_with_intervals(drawn(truth, 5000, rng))
    assert [r["elo"] for r in many] == pytest.approx(truth, abs=12)


def test_who_wins_every_game_has_a_rating_all_the_same() -> None:
    rated = ratings_with_intervals([[[], [1.0] * 20], [[0.0] * 20, []]])
    assert 1500 < rated[0]["elo"] < 2500
    assert rated[0]["elo_low"] == rated[0]["elo_high"]  # every game drawn again is the same


def test_every_pair_plays_every_start_in_both_seats() -> None:
    pairings = round_robin([GAME, EnvKey("llmgym/KuhnPoker-v0")], 3, 5)
    assert len(pairings) == 2 * 3 * 5 * 2
    assert len({(p.start, p.players) for p in pairings}) == len(pairings)
    assert {p.players for p in pairings} == {(i, j) for i in range(3) for j in range(3) if i != j}


def test_perfect_play_is_never_beaten_and_the_table_adds_up() -> None:
    names = ["random", "minimax", "first"]
    pairings = round_robin([GAME], 3, 8)
    play_all(pairings, names, RolloutSection(episodes=16))
    result = result_of(names, pairings)
    assert result["players"][0]["player"] == "minimax"
    assert all(record["losses"] == 0 for record in result["cross"]["minimax"].values())
    for one, other in (("random", "minimax"), ("random", "first"), ("first", "minimax")):
        mine, theirs = result["cross"][one][other], result["cross"][other][one]
        assert (mine["wins"], mine["draws"], mine["losses"]) == (theirs["losses"], theirs["draws"], theirs["wins"])
        assert mine["wins"] + mine["draws"] + mine["losses"] == 16
    again = round_robin([GAME], 3, 8)
    play_all(again, names, RolloutSection(episodes=5))
    assert points_of(again, 3) == points_of(pairings, 3)


def test_a_callable_takes_part_and_who_breaks_the_rules_loses() -> None:
    pairings = round_robin([GAME], 2, 3)
    play_all(pairings, ["first", lambda observation, info: "no move"], RolloutSection())
    assert points_of(pairings, 2)[0][1] == [1.0] * 6


def test_a_game_that_a_limit_ends_is_decided_by_what_was_earned_until_then(tiny_folder: Path) -> None:
    model, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    player = ModelPlayer(HFEngine(model, chat.stop_ids, 8), chat, temperature=0.0)

    def fails_first(observation: str, info: dict[str, Any]) -> str:
        return f"\\boxed{{{info['legal_actions'][0]}}}" if info["parse"] == "malformed" else "no move"

    env = EnvKey(GAME.id, '{"on_invalid": "penalty:0.5"}')
    pairings = [Pairing(Start(env, 0), (1, 0)), Pairing(Start(GAME, 0), (0, 2))]
    play_all(pairings, [player, fails_first, "first"], RolloutSection(max_turns=1))
    # The model may reply once. The first opponent has paid 0.5 before each of its moves; the second has paid nothing.
    assert [pairing.points for pairing in pairings] == [0.0, 0.5]


class Watched(HFEngine):
    """Notes what it was asked and what it replied."""

    def generate(self, prompts, temperature, generator):  # type: ignore[no-untyped-def]
        samples = super().generate(prompts, temperature, generator)
        self.seen = [*getattr(self, "seen", []), *zip(prompts, (sample.ids for sample in samples), strict=True)]
        return samples


def test_prompts_are_those_of_the_context(tiny_folder: Path) -> None:
    """In ``episode`` each later prompt of a game begins with an earlier prompt and its reply; in ``turn`` none does."""
    model, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    env = EnvKey(GAME.id, '{"on_invalid": "retry:2"}')
    longest = {}
    for context in ("turn", "episode"):
        engine = Watched(model, chat.stop_ids, 8)
        rollout = RolloutSection(context=context, max_prompt_tokens=2000)
        play_all(round_robin([env], 2, 4), ["random", ModelPlayer(engine, chat)], rollout)
        grown = 0
        for prompt, _ in engine.seen:
            grown += any(prompt[: len(p) + len(ids)] == p + ids for p, ids in engine.seen)
        fresh = 8  # each game's first prompt
        assert grown == (len(engine.seen) - fresh if context == "episode" else 0)
        assert len(engine.seen) > 2 * fresh
        longest[context] = max(len(prompt) for prompt, _ in engine.seen)
    assert longest["episode"] > longest["turn"]


def test_a_model_takes_part(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.json"
    words = [
        "--players",
        str(tiny_folder),
        "minimax",
        "--rounds",
        "6",
        "--rollout.max_new_tokens",
        "8",
        "--json",
        str(out),
    ]
    cli.main(["tournament", *words])
    result = json.loads(out.read_text())
    record = result["cross"]["minimax"][str(tiny_folder)]
    assert (record["wins"] + record["draws"], record["losses"]) == (12, 0)
    assert "12 games" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--players", "random"], "two or more different players"),
        (["--players", "random", "random"], "two or more different players"),
        (["--players", "random", "nobody"], "no scripted player"),
        (["--players", "random", "first", "--games", "llmgym/PasswordGame-v0"], "no game for two"),
        (["--players", "random", "no/such/folder/of/models"], "there is no|not a folder"),
    ],
)
def test_mistakes_are_one_line(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tournament", *words])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.count("\n") == 1
    assert any(part in told for part in why.split("|")), told
