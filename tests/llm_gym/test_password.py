"""The Password Game against a checker written apart from it, and the game around the rules."""

from __future__ import annotations

import random
import re
from collections import Counter

import gymnasium
import numpy as np
import pytest
from password_brute_force import ELEMENTS, brute_force, random_password

import llm_gym  # noqa: F401 - registers the ids
from llm_gym.games.password.game import PasswordGame
from llm_gym.games.password.rules import (
    ATOMIC_NUMBER,
    RULES,
    SACRIFICEABLE,
    SYMBOLS,
    check,
    draw_secrets,
    rule_texts,
)
from llm_gym.games.password.solver import solver
from llm_gym.games.password.words import COUNTRIES, WORDLE

ID = "llmgym/PasswordGame-v0"


def play(game: PasswordGame, seed: int, policy=solver) -> PasswordGame:
    game.reset(np.random.default_rng(seed))
    while game.current_player is not None:
        game.apply(policy(game.observe(0), game.info(0)))
    return game


def test_rules_agree_with_the_brute_force_checker_on_random_strings():
    rng = random.Random(0)
    seen = [Counter() for _ in RULES]
    for seed in range(100):
        game = PasswordGame(mode="all")
        game.reset(np.random.default_rng(seed))
        solved = solver(game.observe(0), {})
        for _ in range(100):
            password = random_password(rng, game.secrets, solved)
            want = brute_force(password, game.secrets)
            assert check(password, game.secrets) == want, password
            for counter, holds in zip(seen, want):
                counter[holds] += 1
    for number, counter in enumerate(seen):
        assert counter[True] >= 50, f"rule {number} hardly ever held"
        assert counter[False] >= 50 or number == 24, f"rule {number} hardly ever failed"


@pytest.mark.parametrize("mode", ["progressive", "all"])
def test_solver_keeps_all_26_rules_on_1000_seeds(mode):
    env = gymnasium.make(ID, mode=mode)
    solved = 0
    for seed in range(1000):
        observation, info = env.reset(seed=seed)
        over = False
        while not over:
            password = solver(observation, info)
            observation, _, over, _, info = env.step(password)
        secrets = env.unwrapped.game.secrets
        assert (info["outcome"] == "solved") == all(brute_force(password, secrets))
        solved += info["outcome"] == "solved"
    assert solved >= 999


def test_solver_needs_one_turn_a_rule_and_no_failures():
    game = play(PasswordGame(), 5)
    assert (game.solved, game.turns) == (True, 26)
    assert play(PasswordGame(mode="all"), 5).turns == 1


@pytest.mark.parametrize("num_rules", range(1, 27))
def test_every_number_of_rules_can_be_solved(num_rules):
    assert play(PasswordGame(num_rules=num_rules), num_rules).solved


@pytest.mark.parametrize(("password", "first"), [("997A!", 5), ("997May!", 7), ("997!maypepsiVXL", 9)])
def test_known_short_prefix_solutions_hold(password, first):
    assert all(check(password, draw_secrets(np.random.default_rng(0)))[:first])


def test_element_table_matches_one_sorted_otherwise():
    assert ATOMIC_NUMBER == ELEMENTS
    assert [SYMBOLS[z - 1] for z in (2, 10, 18, 36, 54, 86, 118)] == ["He", "Ne", "Ar", "Kr", "Xe", "Rn", "Og"]


def test_superscripts_are_numbers_but_no_decimal_digits():
    kept = check("9²97A!", draw_secrets(np.random.default_rng(0)))
    assert kept[4]  # 9 + 9 + 7
    assert check("²", draw_secrets(np.random.default_rng(0)))[1]


def test_all_words_leave_two_letters_to_sacrifice():
    assert all(len(word) == 5 and word.isalpha() and word.islower() for word in WORDLE)
    assert all(word.isalpha() and word.islower() for word in COUNTRIES)
    assert all(len(set(SACRIFICEABLE) - set(w) - set(c)) >= 2 for w in WORDLE for c in COUNTRIES)


def test_secrets_are_told_when_their_rule_appears_and_never_before():
    told = {9: "captcha", 10: "wordle", 12: "moon", 13: "country", 20: "sacrifice", 21: "colour"}
    for seed in range(50):
        game = PasswordGame()
        game.reset(np.random.default_rng(seed))
        while game.current_player is not None:
            shown = game.observe(0).split("\nYour last password")[0]
            for number, name in told.items():
                line = rule_texts(game.secrets)[number]
                assert getattr(game.secrets, name) in line
                assert (line in shown) == (number < game.shown)
            game.apply(solver(game.observe(0), {}))


def test_secrets_vary_and_follow_the_seed():
    drawn = [draw_secrets(np.random.default_rng(seed)) for seed in range(200)]
    assert drawn == [draw_secrets(np.random.default_rng(seed)) for seed in range(200)]
    for name, least in (
        ("captcha", 190),
        ("wordle", 80),
        ("moon", 8),
        ("country", 60),
        ("sacrifice", 80),
        ("colour", 4),
    ):
        assert len({getattr(secrets, name) for secrets in drawn}) >= least
    for secrets in drawn:
        assert re.fullmatch("[a-z]{3}", re.sub("[0-9]{1}", "", secrets.captcha))
        assert not set(secrets.sacrifice) & set(secrets.captcha + secrets.wordle + secrets.country)


def test_next_rule_appears_only_once_all_shown_are_kept():
    env = gymnasium.make(ID)
    _, info = env.reset(seed=0)
    steps = [("a", 1, [0]), ("aaaaa", 2, [1]), ("aaaaa", 2, [1]), ("1", 2, [0]), ("aaaa1", 3, [2]), ("aaaA1", 4, [3])]
    assert (info["rules_shown"], info["rules_satisfied"], info["rules_failed"]) == (1, 0, [])
    for password, shown, failed in steps:
        observation, _, _, _, info = env.step(password)
        assert (info["rules_shown"], info["rules_failed"]) == (shown, failed)
        assert info["rules_satisfied"] == shown - len(failed)
        marks = re.findall(r"^\d+ (ok|failed): ", observation, re.MULTILINE)
        assert [i for i, mark in enumerate(marks) if mark == "failed"] == failed
        assert len(marks) == shown


def test_default_reward_is_the_final_score_once():
    env = gymnasium.make(ID, max_turns=3)
    env.reset(seed=0)
    assert [env.step("aaaaa")[1], env.step("aaaa1")[1]] == [0.0, 0.0]
    _, reward, terminated, truncated, info = env.step("aaaA1!")
    assert (terminated, truncated, info["outcome"]) == (True, False, "failed")
    assert reward == pytest.approx(3 - 0.06)
    assert info["reward_terms"] == {"rules": 3.0, "length": -0.06, "progress": 0.0, "bonus": 0.0}
    assert info["rules_satisfied"] == 3


def test_shaping_pays_each_newly_kept_rule_and_the_bonus_once():
    env = gymnasium.make(
        ID, weights={"rules": 0.0, "progress": 1.0, "bonus": 10.0}, num_rules=7, mode="all", max_turns=5
    )
    env.reset(seed=0)
    rewards = [env.step(password)[1] for password in ("aaaaa", "aaaaa1", "aaaaa", "997A!", "997May!")]
    # Rule 0; then the number; nothing new; then capital, special and sum, which make five; then month, Roman, the end.
    assert rewards == pytest.approx([1.0, 1.0, 0.0, 13.0, 2.0 - 0.07])
    assert env.unwrapped.reward_range == (-5.0 - 1.5, 17.0)


def test_declared_range_is_reached_by_the_best_and_the_worst_password():
    best = play(PasswordGame(weights={"length": 0.0}), 3)
    assert best.returns() == [best.reward_range[1]] == [26.0]
    worst = PasswordGame(max_turns=1)
    worst.reset(np.random.default_rng(0))
    worst.apply("x" * 1_000_000)
    assert worst.returns() == [worst.reward_range[0]] == [-5.0]


def test_a_password_over_the_limit_keeps_no_rule():
    env = gymnasium.make(ID, max_length=10, mode="all")
    env.reset(seed=0)
    observation, _, _, _, info = env.step("997A!" + "-" * 6)
    assert (info["rules_satisfied"], len(info["rules_failed"])) == (0, 26)
    assert "11 characters: 997A!----- (too long, cut here)" in observation
    assert env.step("997A!" + "-" * 5)[4]["rules_satisfied"] > 4


def test_thinking_is_no_part_of_the_password():
    env = gymnasium.make(ID, num_rules=5, mode="all", max_turns=2)
    env.reset(seed=0)
    _, _, _, _, info = env.step("<think>\n997A! has a number</think>\nplain\n")
    assert info["rules_failed"] == [1, 2, 3, 4]
    _, _, terminated, _, info = env.step("<think>abc</think>\n\n997A!")
    assert (terminated, info["outcome"]) == (True, "solved")


def test_the_first_line_is_not_the_password():
    env = gymnasium.make(ID, num_rules=1, max_turns=1)
    env.reset(seed=0)
    assert env.step("ab\ncd")[4]["outcome"] == "solved"  # five characters, the line break among them


def test_a_password_cannot_forge_a_rule_line():
    game = PasswordGame()
    game.reset(np.random.default_rng(0))
    game.apply("x\n1 failed: this CAPTCHA: zzz99\u2028\x00\u202e\ud800")
    last = game.observe(0).splitlines()[-1]
    assert last.endswith("x\ufffd1 failed: this CAPTCHA: zzz99" + "\ufffd" * 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_rules": 0}, "num_rules must be 1 to 26, not 0"),
        ({"num_rules": 27}, "num_rules must be 1 to 26, not 27"),
        ({"num_rules": True}, "num_rules must be 1 to 26"),
        ({"mode": "fast"}, "mode must be one of progressive, all"),
        ({"max_turns": 0}, "max_turns must be a whole number"),
        ({"max_length": 0}, "max_length must be a whole number"),
        ({"weights": {"speed": 1.0}}, "weights must give rules, length, progress, bonus"),
        ({"weights": {"rules": float("nan")}}, "weights must give"),
        ({"weights": {"rules": "1"}}, "weights must give"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        gymnasium.make(ID, **settings)


@pytest.mark.parametrize("mode", ["progressive", "all"])
def test_sampler_keeps_about_half_of_the_rules_and_never_solves(mode):
    env = gymnasium.make(ID, mode=mode)
    kept = shown = 0
    for seed in range(60):
        env.reset(seed=seed)
        over = False
        while not over:
            before = env.unwrapped.game.shown
            password = env.unwrapped.scripted_reply("sampler", env.unwrapped.np_random)
            kept += sum(brute_force(password, env.unwrapped.game.secrets)[:before])
            shown += before
            _, _, over, _, info = env.step(password)
        assert info["outcome"] == "failed"
    assert 0.4 < kept / shown < 0.65


def test_serialize_gives_the_whole_state_back():
    env = gymnasium.make(ID, weights={"progress": 1.0, "bonus": 10.0}, max_turns=9)
    env.reset(seed=7)
    for password in ("aaaaa", "1", "aaa\ud8001", "aaaA1"):
        env.step(password)
    game = env.unwrapped.game
    twin = PasswordGame.deserialize(game.serialize())
    assert twin.serialize() == game.serialize()
    while game.current_player is not None:
        assert (twin.observe(0), twin.info(0), twin.returns()) == (game.observe(0), game.info(0), game.returns())
        game.apply(solver(game.observe(0), {}))
        twin.apply(solver(twin.observe(0), {}))
    assert twin.current_player is None
    assert twin.reward_terms(0) == game.reward_terms(0)


def test_a_clone_plays_on_alone():
    game = PasswordGame()
    game.reset(np.random.default_rng(1))
    copy = game.clone()
    copy.apply("aaaaa")
    assert (game.turns, game.ever_kept, copy.turns, copy.ever_kept) == (0, set(), 1, {0})
