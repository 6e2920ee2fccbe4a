"""Exact values against OpenSpiel's, against minimax, and against what sampled games say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from accelerate import Accelerator

pyspiel = pytest.importorskip("pyspiel")

from algos.config.schema import RolloutSection  # noqa: E402
from algos.data.tasks import EnvKey, Start  # noqa: E402
from algos.engines.hf import HFEngine  # noqa: E402
from algos.evaluation.evaluator import play  # noqa: E402
from algos.evaluation.exact.game_tree import Histories, PolicyTable, State, match_of, walk  # noqa: E402
from algos.evaluation.exact.model_policy import ModelPolicy  # noqa: E402
from algos.evaluation.exact.values import exact, greedy, nash_conv, uniform  # noqa: E402
from algos.evaluation.score import score  # noqa: E402
from algos.model.chat import Chat  # noqa: E402
from algos.model.load import load_model  # noqa: E402
from algos.rollout.single_agent import EpisodeRunner  # noqa: E402
from llm_gym.games.openspiel import OpenSpiel  # noqa: E402
from llm_gym.games.tic_tac_toe import TicTacToe  # noqa: E402
from llm_gym.opponents.minimax import minimax_value  # noqa: E402
from llm_gym.opponents.nash import nash_table  # noqa: E402


def perfect(states: Sequence[State]) -> list[dict[str, float]]:
    """Tic-tac-toe by minimax, all best moves alike."""
    answers = []
    for state in states:
        game = TicTacToe.deserialize("".join(state.observation.partition("\n")[2].split()).encode())
        worth = {}
        for move in state.legal:
            child = game.clone()
            child.apply(move)
            worth[move] = minimax_value(child) * (1 if state.player == 0 else -1)
        best = [move for move, value in worth.items() if value == max(worth.values())]
        answers.append(dict.fromkeys(best, 1 / len(best)))
    return answers


@pytest.mark.parametrize(("game", "published"), [("kuhn_poker", 11 / 12), ("leduc_poker", 4.747222222)])
def test_uniform_play_has_the_published_nash_conv(game: str, published: float) -> None:
    found = exact(OpenSpiel(game), uniform)
    spiel = pyspiel.load_game(game)
    assert found["nash_conv"] == pytest.approx(published)
    assert found["nash_conv"] == pytest.approx(pyspiel.nash_conv(spiel, pyspiel.UniformRandomPolicy(spiel)))
    assert found["value"] == pytest.approx(found["value_against_random"])


def test_an_equilibrium_cannot_be_exploited_and_is_worth_a_loss_of_an_eighteenth() -> None:
    table = nash_table("kuhn_poker()", 5000)
    names = {0: "Pass", 1: "Bet"}

    def equilibrium(states: Sequence[State]) -> list[dict[str, float]]:
        seen = [state.observation.partition("\n")[2] for state in states]
        return [{names[action]: chance for action, chance in table.policy[key]} for key in seen]

    found = exact("llmgym/KuhnPoker-v0", equilibrium)
    assert found["nash_conv"] == pytest.approx(table.nash_conv, abs=1e-9)
    assert found["value"][0] == pytest.approx(-1 / 18, abs=2e-3)


def test_two_ways_to_walk_agree() -> None:
    """Nothing is hidden in this nim: it can be walked by positions, and by OpenSpiel's histories."""
    game = OpenSpiel("nim(pile_sizes=1;2;3)")
    found = exact(game, uniform)
    match = match_of(game)
    other, table = Histories(match, 20_000), PolicyTable(uniform)
    assert other.self_play(table)[0] == pytest.approx(found["value"])
    for seat in (0, 1):
        assert other.best_response(table, seat)[seat] == pytest.approx(found["value_against_best_response"][seat])
        assert other.against_uniform(table, seat) == pytest.approx(found["value_against_random"][seat])


def test_perfect_play_of_tic_tac_toe_never_loses() -> None:
    found = exact("llmgym/TicTacToe-v0", perfect)
    assert found["value"] == pytest.approx([0.0, 0.0])
    assert found["value_against_best_response"] == pytest.approx([0.0, 0.0])
    assert found["nash_conv"] == pytest.approx(0.0)
    assert min(found["value_against_random"]) > 0.7


def test_tic_tac_toe_is_worth_what_openspiels_is() -> None:
    ours, theirs = (walk(name) for name in ("llmgym/TicTacToe-v0", "llmgym/OpenSpiel-v0"))
    assert len(ours.decisions) == len(theirs.decisions) == 4520
    found, other = exact(ours, uniform), exact(theirs, uniform)
    for name, value in found.items():
        assert value == pytest.approx(other[name]), name
    # 58.49 % of random games are won by X, 28.81 % lost.
    assert found["value"][0] == pytest.approx(0.58492 - 0.28810, abs=1e-5)
    assert found["value_against_best_response"][0] < -0.9


def test_a_greedy_policy_is_asked_only_where_it_can_come() -> None:
    asked: list[State] = []

    def noted(states: Sequence[State]) -> list[dict[str, float]]:
        asked.extend(states)
        return uniform(states)

    found = exact("llmgym/TicTacToe-v0", greedy(noted))
    assert len(asked) == found["decisions"] < 300
    assert found["value_against_best_response"] == [-1.0, -1.0]


def test_replies_that_are_no_actions_are_told_and_do_not_count() -> None:
    def vague(states: Sequence[State]) -> list[dict[str, float]]:
        return [{move: chance / 4 for move, chance in moves.items()} for moves in uniform(states)]

    found = exact("llmgym/KuhnPoker-v0", vague)
    assert found["legal_reply_probability"] == found["least_legal_reply_probability"] == 0.25
    assert found["nash_conv"] == pytest.approx(11 / 12)


def test_coverage_is_the_share_of_decisions_that_the_policys_own_games_meet() -> None:
    def never_bets(states: Sequence[State]) -> list[dict[str, float]]:
        return [{"Pass": 1.0} for _ in states]

    assert exact("llmgym/KuhnPoker-v0", uniform)["state_coverage"] == 1.0
    assert exact("llmgym/KuhnPoker-v0", never_bets)["state_coverage"] == 6 / 12  # after a bet nobody ever is


@pytest.mark.parametrize(
    ("game", "why"),
    [
        ("llmgym/ConnectFour-v0", "walks at most 20,000 decisions, and connect_four"),
        ("llmgym/PasswordGame-v0", "is of games for two; PasswordGame is for 1"),
        ("llmgym/Negotiation-v0", "cannot walk Negotiation"),
        ("llmgym/PredictionGame-v0", "needs a game that lists its legal actions"),
    ],
)
def test_games_that_cannot_be_walked_are_refused_in_a_line(game: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        walk(game)
    assert "\n" not in str(error.value)


def test_probabilities_of_illegal_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="probabilities of legal actions"):
        nash_conv("llmgym/KuhnPoker-v0", lambda states: [{"Raise": 1.0} for _ in states])


def test_sampled_games_agree_with_the_exact_value_95_times_in_100() -> None:
    truth = exact("llmgym/KuhnPoker-v0", uniform)["value_against_random"][0]
    starts = [Start(EnvKey("llmgym/KuhnPoker-v0"), seed) for seed in range(30_000)]
    played = play(EpisodeRunner(RolloutSection()), "uniform", starts, Accelerator(), parallel=1)
    covered = 0
    for first in range(0, 30_000, 100):
        result = score(played[first : first + 100])
        covered += result["mean_return_low"] <= truth <= result["mean_return_high"]
    assert 0.93 <= covered / 300 <= 0.97


@pytest.fixture(scope="module")
def a_model(tiny_folder: Path) -> tuple[Any, Chat]:
    model, tokenizer = load_model(tiny_folder)
    return model, Chat(tokenizer)


def test_a_models_move_probabilities_are_those_of_an_ordinary_forward_pass(a_model: tuple[Any, Chat]) -> None:
    model, chat = a_model
    env: Any = gymnasium.make("llmgym/KuhnPoker-v0").unwrapped
    _, info = env.reset(seed=3)
    state = State(0, info["messages"][1]["content"], ("Pass", "Bet"))
    found = ModelPolicy(model, chat, env.match, temperature=0.7)([state, state])[0]
    for action in ("Pass", "Bet"):
        prompt = chat.first(info["messages"])
        ids = [*chat.tokenizer.encode(f"\\boxed{{{action}}}", add_special_tokens=False), chat.tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0].double() / 0.7, -1)
        total = sum(log_p[len(prompt) + i - 1, token].item() for i, token in enumerate(ids))
        assert np.log(found[action]) == pytest.approx(total, abs=1e-4)


def test_a_model_plays_as_often_as_its_probabilities_say(a_model: tuple[Any, Chat]) -> None:
    """The first cell that a sampled model names in tic-tac-toe, 4,000 times, beside the exact probabilities."""
    model, chat = a_model
    env: Any = gymnasium.make("llmgym/TicTacToe-v0").unwrapped
    observation, info = env.reset(seed=0)
    exactly = ModelPolicy(model, chat, env.match)([State(0, observation, tuple("012345678"))])[0]
    engine = HFEngine(model, chat.stop_ids, 8)
    samples = engine.generate([chat.first(info["messages"])] * 4000, 1.0, torch.Generator().manual_seed(0))
    replies = [chat.decode(sample.ids) for sample in samples]
    for cell, chance in exactly.items():
        share = replies.count(f"\\boxed{{{cell}}}") / 4000
        assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000) + 1e-3
