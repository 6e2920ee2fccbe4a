"""Negotiation: what is legal, what a trade moves, who wins, and what stays secret."""

from __future__ import annotations

import random

import gymnasium
import numpy as np
import pytest

import llm_gym  # noqa: F401 - registers the ids
from llm_gym.game import IllegalAction
from llm_gym.games.negotiation import Negotiation, greedy

ID = "llmgym/Negotiation-v0"


def start(**settings) -> Negotiation:
    game = Negotiation(**settings)
    game.reset(np.random.default_rng(0))
    return game


def after(*actions: str, **settings) -> Negotiation:
    game = start(**settings)
    for action in actions:
        game.apply(action)
    return game


def reference_gains(actions: list[str]) -> list[int]:
    """Both gains, from a plain ledger of the accepted offers: what each gave and got, times its values."""
    value = [{"wood": 5, "gold": 15}, {"wood": 15, "gold": 5}]
    gains = [0, 0]
    for turn in range(1, len(actions)):
        if actions[turn] == "accept":
            _, given, a, _, asked, b = actions[turn - 1].split()
            proposer = (turn - 1) % 2
            for seat, sign in ((proposer, 1), (1 - proposer, -1)):
                gains[seat] += sign * (int(asked) * value[seat][b] - int(given) * value[seat][a])
    return gains


def test_an_accepted_offer_moves_the_goods():
    game = after("offer 3 wood for 2 gold", "accept")
    assert game.holdings == [[7, 12], [13, 8]]
    assert (game.gain(0), game.gain(1)) == (2 * 15 - 3 * 5, 3 * 15 - 2 * 5)


@pytest.mark.parametrize("answer", ["deny", "offer 1 gold for 1 wood"])
def test_an_offer_that_is_not_accepted_is_off_the_table(answer):
    game = after("offer 3 wood for 2 gold", answer, "deny" if answer.startswith("offer") else "pass")
    assert game.holdings == [[10, 10], [10, 10]]
    with pytest.raises(IllegalAction):
        game.apply("accept")


@pytest.mark.parametrize(
    ("played", "illegal"),
    [
        ([], "accept"),
        ([], "deny"),
        ([], "offer 11 wood for 1 gold"),
        ([], "offer 1 wood for 11 gold"),
        ([], "offer 0 wood for 1 gold"),
        ([], "offer 1 wood for 1 wood"),
        ([], "offer 01 wood for 1 gold"),
        ([], "offer ² wood for 1 gold"),
        (["offer 1 wood for 1 gold"], "pass"),
        (["offer 9 wood for 9 gold", "accept"], "offer 2 wood for 1 gold"),
    ],
)
def test_illegal_actions_leave_the_game_unchanged(played, illegal):
    game = after(*played)
    before = game.serialize()
    assert illegal not in game.legal_actions()
    with pytest.raises(IllegalAction):
        game.apply(illegal)
    assert game.serialize() == before


def test_every_listed_action_is_legal_and_every_offer_up_to_the_holdings_is_listed():
    for played in ([], ["offer 4 wood for 7 gold"], ["offer 4 wood for 7 gold", "accept"]):
        game = after(*played)
        legal = game.legal_actions()
        for action in legal:
            game.clone().apply(action)
        me, other = game.holdings[game.current_player], game.holdings[1 - game.current_player]
        assert len(legal) == len(set(legal)) == me[0] * other[1] + me[1] * other[0] + (2 if game.table else 1)


def test_random_games_are_zero_sum_and_won_by_the_larger_gain():
    rng = random.Random(0)
    results = set()
    for _ in range(300):
        game, actions = start(), []
        while game.current_player is not None:
            legal = game.legal_actions()
            actions.append(legal[0] if rng.random() < 0.4 else rng.choice(legal))
            game.apply(actions[-1])
        assert len(actions) == 10
        gains = reference_gains(actions)
        assert game.info(0)["gains"] == gains
        sign = (gains[0] > gains[1]) - (gains[0] < gains[1])
        assert game.returns() == [sign, -sign]
        assert [sum(held) for held in zip(*game.holdings)] == [20, 20]
        results.add(sign)
    assert results == {-1, 0, 1}


def test_values_of_the_other_player_change_nothing_that_a_player_sees():
    played = ["offer 3 wood for 2 gold", "accept", "pass", "offer 2 gold for 1 wood"]
    for seat in (0, 1):
        for own in ((5, 15), (15, 5)):
            seen = set()
            for other in ((5, 15), (15, 5), (1, 99)):
                game = start(values="random")
                game.values = (own, other) if seat == 0 else (other, own)
                views = []
                for action in played:
                    views.append((game.observe(seat), game.info(seat)["gain"]))
                    game.apply(action)
                seen.add(str([*views, game.observe(seat), game.info(seat)]))
            assert len(seen) == 1


def test_random_values_come_from_the_seed_and_take_all_four_forms():
    drawn = []
    for seed in range(64):
        game = Negotiation(values="random")
        game.reset(np.random.default_rng(seed))
        drawn.append(game.values)
        game.reset(np.random.default_rng(seed))
        assert game.values == drawn[-1]
    assert len(set(drawn)) == 4


def test_observation_tells_the_offer_on_the_table_to_the_player_it_was_made_to():
    game = after("offer 5 wood for 9 gold")
    assert game.observe(1).splitlines() == [
        "You are player 1. Turn 2 of 10.",
        "To you 1 wood is worth 15, 1 gold 5. Your goods have gained 0 in value.",
        "You hold 10 wood and 10 gold. They hold 10 wood and 10 gold.",
        "So far: they offer 5 wood for 9 gold.",
        "They offer 5 wood for 9 gold of yours: accept or deny it, or make another offer.",
    ]
    assert "of yours" not in game.observe(0)


def test_greedy_takes_what_gains_and_never_agrees_to_a_loss():
    assert greedy(after("offer 5 wood for 9 gold").observe(1), {}) == "accept"  # 75 for 45
    assert greedy(after("offer 1 wood for 3 gold").observe(1), {}).startswith("offer")  # 15 for 15
    rng = random.Random(1)
    for _ in range(200):
        game = start(values="random")
        while game.current_player is not None:
            before = game.gain(1)
            if game.current_player == 1:
                game.apply(greedy(game.observe(1), {}))
                assert game.gain(1) >= before
            else:
                game.apply(rng.choice(game.legal_actions()))
        assert game.gain(1) >= 0


def test_greedy_beats_an_opponent_that_takes_everything():
    for seat in (0, 1):
        env = gymnasium.make(ID, seat=seat, opponent="first")
        env.reset(seed=0)
        over = False
        while not over:
            _, reward, over, _, info = env.step(env.unwrapped.scripted_reply("greedy", env.unwrapped.np_random))
        assert (reward, info["outcome"]) == (1.0, "win")


def test_a_callable_opponent_reads_its_own_seat():
    seen = []

    def opponent(observation, info):
        seen.append((info["player"], "1 wood is worth 15" in observation))
        return f"\\boxed{{{info['legal_actions'][0]}}}"

    env = gymnasium.make(ID, opponent=opponent)
    env.reset(seed=0)
    env.step("I give \\boxed{Offer 1  wood for 1 gold}")
    assert seen == [(1, True)]
    assert env.unwrapped.game.holdings == [[9, 11], [11, 9]]


def test_serialize_gives_the_whole_state_back():
    game = after("offer 3 wood for 2 gold", "accept", "pass", "offer 2 gold for 1 wood", values="random")
    twin = Negotiation.deserialize(game.serialize())
    assert twin.serialize() == game.serialize()
    assert [twin.observe(seat) for seat in (0, 1)] == [game.observe(seat) for seat in (0, 1)]
    assert twin.legal_actions() == game.legal_actions()
    twin.apply("accept")
    assert len(game.history) == 4


@pytest.mark.parametrize("settings", [{"max_turns": 0}, {"max_turns": 2.5}, {"values": "secret"}])
def test_wrong_settings_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Negotiation(**settings)
