"""One game being played: invalid replies in every mode from every seat, rewards and their terms, what players see."""

from typing import Any

import numpy as np
import pyspiel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_gym import IllegalAction, TextEnv, TextGame
from llm_gym.games.tic_tac_toe import TicTacToe
from llm_gym.match import MAX_INVALID_IN_A_ROW, MAX_LEGAL_SHOWN, Match, make_game, parse_on_invalid

BAD = [("no box at all", "malformed"), (r"\boxed{9}", "illegal")]


def box(action: str) -> str:
    return rf"\boxed{{{action}}}"


class Scripted:
    """An opponent that gives these replies in turn, and remembers what it was shown."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, observation: str, info: dict[str, Any]) -> str:
        self.seen.append((observation, info))
        return self.replies.pop(0)


class Auction(TextGame):
    """Three players say a number in turn, twice round; each number is earned at once. Saying 0 first pays nothing."""

    num_players = 3
    rules = "Say 0, 1 or 2."
    example = "1"
    reward_range = (0.0, 4.0)
    dense_reward = True

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.said: list[int] = []
        self.current_player: int | None = 0

    def observe(self, player: int) -> str:
        return f"You are {player}. Said: {self.said}"

    def legal_actions(self) -> list[str]:
        return ["0", "1", "2"]

    def apply(self, action: str) -> None:
        if action not in self.legal_actions():
            raise IllegalAction(action)
        self.said.append(int(action))
        self.current_player = len(self.said) % 3 if len(self.said) < 6 else None

    def returns(self) -> list[float]:
        return [float(sum(self.said[seat::3])) for seat in range(3)]

    def reward_terms(self, player: int) -> dict[str, float]:
        said = self.said[player::3]
        return {"first": float(sum(said[:1])), "second": float(sum(said[1:]))}


class Puzzle(TextGame):
    """One player names a word that cannot be listed."""

    action_format = "plain"
    reward_range = (0.0, 1.0)

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.current_player, self.solved = 0, False

    def observe(self, player: int) -> str:
        return "Say a word."

    def apply(self, action: str) -> None:
        if not action.isalpha():
            raise IllegalAction(action)
        self.solved, self.current_player = action == "word", None

    def returns(self) -> list[float]:
        return [float(self.solved)]


def start(opponent: Any, seat: int, on_invalid: str, **settings: Any) -> tuple[TextEnv, dict[str, Any]]:
    env = TextEnv(TicTacToe, opponent=opponent, seat=seat, on_invalid=on_invalid, **settings)
    return env, env.reset(seed=0)[1]


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize(("bad", "parse"), BAD)
class TestLose:
    def test_the_agents_invalid_reply_ends_the_game(self, seat: int, bad: str, parse: str) -> None:
        env, _ = start(Scripted(*map(box, "873")), seat, "lose")
        observation, reward, terminated, truncated, info = env.step(bad)
        assert (reward, terminated, truncated) == (-1.5, True, False)
        assert info["returns"] == ([-1.5, 0.5] if seat == 0 else [0.5, -1.5])
        assert (info["outcome"], info["parse"], info["legal_actions"]) == ("invalid", parse, [])
        assert info["reward_terms"] == {"invalid": -1.5}
        assert observation.endswith("The game is over: your reply was invalid.")

    def test_an_opponents_invalid_reply_ends_the_game(self, seat: int, bad: str, parse: str) -> None:
        env, _ = start(Scripted(*map(box, "8"[:seat]), bad), seat, "lose")
        observation, reward, terminated, truncated, info = env.step(box("0"))
        assert (reward, terminated, truncated) == (0.5, True, False)
        assert info["returns"] == ([0.5, -1.5] if seat == 0 else [-1.5, 0.5])
        assert (info["outcome"], info["parse"], info["legal_actions"]) == ("win", "ok", [])
        assert info["reward_terms"] == {"invalid": 0.5}
        assert observation.endswith("The game is over: another player's reply was invalid.")


@pytest.mark.parametrize(("bad", "parse"), BAD)
def test_a_game_forfeited_before_the_agents_first_turn(bad: str, parse: str) -> None:
    env, info = start(Scripted(bad), 1, "lose")
    assert (info["outcome"], info["returns"], info["legal_actions"]) == ("win", [-1.5, 0.5], [])
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    _, reward, terminated, truncated, info = env.step("whatever")
    assert (reward, terminated, truncated) == (0.5, True, False)
    assert (info["outcome"], info["parse"], info["reward_terms"]) == ("win", "ok", {"invalid": 0.5})


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("tries", [0, 1, 3])
@pytest.mark.parametrize(("bad", "parse"), BAD)
class TestRetry:
    def test_the_agent_has_n_more_tries_in_every_turn(self, seat: int, tries: int, bad: str, parse: str) -> None:
        env, _ = start(Scripted(*map(box, "873")), seat, f"retry:{tries}")
        for turn in range(2):
            for _ in range(tries):
                observation, reward, terminated, _, info = env.step(bad)
                assert (reward, terminated, info["parse"]) == (0.0, False, parse)
                assert f"Your last {'reply' if parse == 'malformed' else 'action'} was {parse}" in observation
                assert str(turn) in info["legal_actions"]
            observation, _, terminated, _, info = env.step(box(str(turn)))
            assert (terminated, info["parse"]) == (False, "ok")
            assert "Your last" not in observation
        for left in range(tries, -1, -1):
            _, reward, terminated, _, info = env.step(bad)
            assert terminated == (left == 0)
        assert (reward, info["outcome"]) == (-1.5, "invalid")

    def test_an_opponent_has_n_more_tries(self, seat: int, tries: int, bad: str, parse: str) -> None:
        opponent = Scripted(*[bad] * tries, box("8"), *[bad] * tries, box("7"), *[bad] * (tries + 1))
        env, info = start(opponent, seat, f"retry:{tries}")
        for cell in "015"[seat:]:
            assert info.get("outcome") is None
            _, reward, terminated, _, info = env.step(box(cell))
        assert (terminated, reward, info["outcome"], opponent.replies) == (True, 0.5, "win", [])
        told = [info["parse"] for _, info in opponent.seen]
        assert told == ["ok"] + [parse] * tries + ["ok"] + [parse] * tries + ["ok"] + [parse] * tries


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize(("bad", "parse"), BAD)
class TestPenalty:
    def test_each_invalid_reply_costs_the_agent(self, seat: int, bad: str, parse: str) -> None:
        env, _ = start(Scripted(*map(box, "873")), seat, "penalty:0.25")
        rewards = []
        for reply in (bad, bad, box("0"), bad, box("1"), box("2")):
            _, reward, terminated, _, info = env.step(reply)
            rewards.append(reward)
            assert sum(info.get("reward_terms", {"none": 0.0}).values()) == reward
        assert rewards == [-0.25, -0.25, 0.0, -0.25, 0.0, 1.0]
        assert (terminated, info["outcome"]) == (True, "win")
        assert info["returns"][seat] == 0.25
        assert info["returns"][1 - seat] == -1.0
        assert info["reward_terms"] == {"game": 1.0, "invalid": 0.0}

    def test_each_invalid_reply_costs_an_opponent(self, seat: int, bad: str, parse: str) -> None:
        env, _ = start(Scripted(bad, box("8"), bad, bad, box("7"), box("4")), seat, "penalty:0.25")
        rewards = [env.step(box(cell)) for cell in "012"]
        assert [step[1] for step in rewards] == [0.0, 0.0, 1.0]
        assert rewards[-1][4]["returns"][1 - seat] == -1.75

    def test_no_episode_is_endless(self, seat: int, bad: str, parse: str) -> None:
        env, _ = start(Scripted(*map(box, "873")), seat, "penalty:0.25")
        env.step(bad)
        env.step(box("0"))  # a valid reply starts the count anew
        steps = [env.step(bad) for _ in range(MAX_INVALID_IN_A_ROW)]
        assert [step[2] for step in steps] == [False] * (MAX_INVALID_IN_A_ROW - 1) + [True]
        assert [step[1] for step in steps] == [-0.25] * (MAX_INVALID_IN_A_ROW - 1) + [-1.75]
        info = steps[-1][4]
        assert (info["outcome"], info["returns"][1 - seat]) == ("invalid", 0.5)
        assert info["returns"][seat] == -0.25 * (MAX_INVALID_IN_A_ROW + 1) - 1.5


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize(("bad", "parse"), BAD)
class TestRandom:
    def test_a_random_legal_action_stands_in_for_the_agents(self, seat: int, bad: str, parse: str) -> None:
        played = set()
        for seed in range(60):
            env = TextEnv(TicTacToe, opponent="first", seat=seat, on_invalid="random")
            _, before = env.reset(seed=seed)
            observation, reward, terminated, _, info = env.step(bad)
            assert (reward, terminated, info["parse"]) == (0.0, False, parse)
            assert observation.endswith(f"Your last reply was {parse}; a random action was played instead.")
            mine = [cell for cell, mark in enumerate(env.game.board) if mark == "XO"[seat]]
            assert len(mine) == 1
            played.add(str(mine[0]))
        assert played == set(before["legal_actions"])

    def test_a_random_legal_action_stands_in_for_an_opponents(self, seat: int, bad: str, parse: str) -> None:
        opponent = Scripted(bad, bad, bad, bad, bad)
        env, info = start(opponent, seat, "random")
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(box(info["legal_actions"][0]))
        assert info["outcome"] in ("win", "loss", "draw")
        assert reward == info["returns"][seat] == -info["returns"][1 - seat]
        assert [info["parse"] for _, info in opponent.seen[:2]] == ["ok", parse]


def test_an_invalid_end_gives_half_a_point_to_every_other_player() -> None:
    env = TextEnv(Auction, opponent="first", seat=1)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step("?")
    assert (reward, terminated, info["returns"]) == (-1.5, True, [0.5, -1.5, 0.5])


def test_a_lone_players_invalid_end_costs_it_and_nobody_gains() -> None:
    env = TextEnv(Puzzle)
    _, info = env.reset(seed=0)
    assert info["legal_actions"] is None
    _, reward, terminated, _, info = env.step("4 words")
    assert (reward, terminated, info["returns"], info["outcome"]) == (-1.5, True, [-1.5], "invalid")


@pytest.mark.parametrize(("word", "outcome", "reward"), [("word", "solved", 1.0), ("wrong", "failed", 0.0)])
def test_a_lone_player_solves_or_fails(word: str, outcome: str, reward: float) -> None:
    env = TextEnv(Puzzle)
    env.reset(seed=0)
    _, got, terminated, truncated, info = env.step(f"<think>no</think> {word}\n")
    assert (got, terminated, truncated, info["outcome"]) == (reward, True, False, outcome)
    assert info["reward_terms"] == {"game": reward}


def test_a_free_text_game_refuses_random_replacements() -> None:
    with pytest.raises(ValueError, match="needs a game that lists its legal actions"):
        TextEnv(Puzzle, on_invalid="random").reset(seed=0)


def test_a_game_that_pays_each_turn_pays_what_is_new_term_by_term() -> None:
    env = TextEnv(Auction, opponent="first", seat=1, on_invalid="retry:1")
    env.reset(seed=0)
    steps = [env.step(reply) for reply in (box("2"), "?", box("1"))]
    assert [step[1] for step in steps] == [2.0, 0.0, 1.0]
    assert [step[4]["reward_terms"] for step in steps] == [
        {"first": 2.0, "second": 0.0},
        {"first": 0.0, "second": 0.0},
        {"first": 0.0, "second": 1.0},
    ]
    assert steps[-1][4]["returns"] == [0.0, 3.0, 0.0]


def test_what_was_earned_before_an_invalid_end_is_kept() -> None:
    env = TextEnv(Auction, opponent="first", seat=1)
    env.reset(seed=0)
    assert env.step(box("2"))[1] == 2.0
    _, reward, _, _, info = env.step("?")
    assert (reward, info["returns"]) == (-1.5, [0.5, 0.5, 0.5])


def test_each_players_note_is_about_its_own_last_reply() -> None:
    """Of three players the first is invalid: neither of the others may read that its reply was."""
    opponent = Scripted("?", box("1"), box("1"), box("1"))
    env = TextEnv(Auction, opponent=opponent, seat=1, on_invalid="random")
    observation, info = env.reset(seed=0)
    assert (info["parse"], "Your last" in observation) == ("ok", False)
    env.step(box("1"))
    assert [(info["player"], info["parse"]) for _, info in opponent.seen] == [(0, "ok"), (2, "ok"), (0, "malformed")]


@pytest.mark.parametrize(
    ("game", "on_invalid", "reward_range"),
    [
        (TicTacToe, "lose", (-1.5, 1.0)),
        (TicTacToe, "random", (-1.0, 1.0)),
        (TicTacToe, "penalty:1", (-np.inf, 1.0)),
        (Auction, "lose", (-1.5, 4.5)),
        (Puzzle, "retry:2", (-1.5, 1.0)),
    ],
)
def test_the_reward_range_covers_invalid_ends(game: Any, on_invalid: str, reward_range: tuple[float, float]) -> None:
    assert TextEnv(game, on_invalid=on_invalid).reward_range == reward_range


class Hand(TextGame):
    """Each player holds one card, and may play that card alone: legal actions tell who holds what."""

    num_players = 2
    perfect_information = False

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.current_player = 0

    def observe(self, player: int) -> str:
        return f"You hold {'JQ'[player]}."

    def legal_actions(self) -> list[str]:
        return ["JQ"[self.current_player or 0]]

    def returns(self) -> list[float]:
        return [0.0, 0.0]


def test_legal_actions_are_shown_to_the_player_to_move_alone() -> None:
    match = Match(Hand(), None, "lose", show_legal=True)
    match.reset(np.random.default_rng(0), None)
    observation, info = match.view(1)
    assert (observation, info["legal_actions"]) == ("You hold Q.", [])
    assert match.view(0)[1]["legal_actions"] == ["J"]


@pytest.mark.parametrize("replies", [[], ["?"], [box("1")], [box("1"), "?"], [box("1"), box("2"), "?", "?", "?"]])
@pytest.mark.parametrize("show_legal", [False, True])
def test_a_view_changes_nothing_and_can_be_taken_at_any_time(replies: list[str], show_legal: bool) -> None:
    watched, alone = (Match(Auction(), None, "retry:2", show_legal) for _ in range(2))
    for match in (watched, alone):
        match.reset(np.random.default_rng(0), None)
    for reply in replies:
        for seat in (0, 1, 2, 1):
            assert watched.view(seat) == watched.view(seat)
            assert watched.view(seat, with_rules=True)[1]["messages"] == watched.prompt(seat)
        for match in (watched, alone):
            match.apply_reply(match.current_player, reply)
    for seat in range(3):
        observation, info = watched.view(seat)
        assert (observation, info) == alone.view(seat)
        assert info["messages"] == [{"role": "user", "content": observation}]
        assert watched.prompt(seat) == [{"role": "system", "content": watched.systems[seat]}, *info["messages"]]
        assert watched.prompt(seat, "Now.")[1] == {"role": "user", "content": "Now."}
        assert watched.pop_reward_terms(seat) == alone.pop_reward_terms(seat)


def test_the_rules_come_with_the_first_view_of_each_player_alone() -> None:
    opponent = Scripted()
    env = TextEnv(Auction, opponent=opponent, seat=1, on_invalid="retry:1")
    for _ in range(2):
        opponent.replies, opponent.seen = ["?", box("1"), box("1"), "?", box("1"), box("2")], []
        infos = [env.reset(seed=0)[1], env.step(box("1"))[4], env.step(box("1"))[4]]
        assert [len(info["messages"]) for info in infos] == [2, 1, 1]
        others = [(info["player"], len(info["messages"])) for _, info in opponent.seen]
        assert others == [(0, 2), (0, 1), (2, 2), (0, 1), (0, 1), (2, 1)]


class Wide(TicTacToe):
    """More legal actions than an observation lists."""

    def legal_actions(self) -> list[str]:
        return [f"{i:04}" for i in range(self.width)]

    width = MAX_LEGAL_SHOWN + 1


@pytest.mark.parametrize(
    ("game", "shown"),
    [
        (TicTacToe, "\nLegal actions: 0, 1, 2, 3, 4, 5, 6, 7, 8"),
        (Wide, f", {MAX_LEGAL_SHOWN - 1:04} ... ({MAX_LEGAL_SHOWN + 1} in all)"),
        (Puzzle, "Say a word."),
    ],
)
def test_legal_actions_in_the_observation_are_an_option(game: Any, shown: str) -> None:
    with_list, info = TextEnv(game, show_legal=True).reset(seed=0)
    without, info_without = TextEnv(game).reset(seed=0)
    assert with_list.endswith(shown)
    assert with_list.startswith(without)
    assert "Legal actions" not in without
    assert info["legal_actions"] == info_without["legal_actions"]


@pytest.mark.parametrize(
    ("action_format", "instruction"),
    [
        (None, r"Put your action in \boxed{}, like \boxed{4}."),
        ("bracket", "Put your action in square brackets, like [4]."),
        ("tag", "Put your action in <answer></answer>, like <answer>4</answer>."),
        ("fence", "Put your code in a fenced block:\n```python\n4\n```"),
        ("plain", ""),
    ],
)
def test_rules_and_format_are_told_once_and_the_format_is_read(action_format: str | None, instruction: str) -> None:
    env = TextEnv(TicTacToe, opponent="first", seat=1, action_format=action_format, on_invalid="retry:9")
    observation, info = env.reset(seed=0)
    system = "\n".join(filter(None, [TicTacToe.rules, instruction]))
    assert info["messages"] == [{"role": "system", "content": system}, {"role": "user", "content": observation}]
    reply = {None: r"\boxed{4}", "bracket": "[4]", "tag": "<answer>4</answer>", "fence": "```\n4\n```", "plain": "4"}
    observation, _, _, _, info = env.step(f"<think>{reply[action_format]}</think>{reply[action_format]}")
    assert info["parse"] == "ok"
    assert info["messages"] == [{"role": "user", "content": observation}]


@pytest.mark.parametrize(
    ("reply", "parse"), [(" 4 ", "ok"), ("Cell 4", "illegal"), ("0", "illegal"), ("4.", "illegal")]
)
def test_an_action_counts_as_written(reply: str, parse: str) -> None:
    env = TextEnv(TicTacToe, opponent="first", seat=1)  # the opponent has taken cell 0
    env.reset(seed=0)
    assert env.step(box(reply))[4]["parse"] == parse


class Answer(Puzzle):
    """The same, but for one of three words."""

    def legal_actions(self) -> list[str]:
        return ["word", "New York", "new york"]

    def apply(self, action: str) -> None:
        if action not in self.legal_actions():
            raise IllegalAction(action)
        super().apply("word")


@pytest.mark.parametrize(
    ("reply", "parse"),
    [("WORD", "ok"), ("w o r d", "ok"), ("New York", "ok"), ("NEW YORK", "illegal"), ("words", "illegal")],
)
def test_case_and_spaces_do_not_matter_where_one_legal_action_fits(reply: str, parse: str) -> None:
    env = TextEnv(Answer)
    env.reset(seed=0)
    assert env.step(reply)[4]["parse"] == parse


CELLS = st.sampled_from([*map(box, "012345678"), "", r"\boxed{9}", "no"])


@given(
    agent=st.lists(CELLS, min_size=40, max_size=40),
    other=st.lists(CELLS, min_size=40, max_size=40),
    seat=st.sampled_from([0, 1]),
    on_invalid=st.sampled_from(["lose", "retry:2", "retry:30", "penalty:0.5", "random"]),
)
@settings(max_examples=200)
def test_whatever_both_say_the_accounts_balance(agent: list[str], other: list[str], seat: int, on_invalid: str) -> None:
    """Against OpenSpiel, which is given the actions that were played, and a count of the invalid replies."""
    applied: list[int] = []

    class Recorded(TicTacToe):
        def apply(self, action: str) -> None:
            super().apply(action)
            applied.append(int(action))

    env = TextEnv(Recorded, opponent=Scripted(*other, *map(box, "012345678" * 40)), seat=seat, on_invalid=on_invalid)
    _, info = env.reset(seed=0)
    total, terminated = 0.0, False
    for reply in [*agent, *map(box, "012345678" * 40)]:
        _, reward, terminated, truncated, info = env.step(reply)
        assert not truncated
        assert reward == sum(info.get("reward_terms", {}).values())
        total += reward
        if terminated:
            break
    assert terminated
    assert info["returns"][seat] == pytest.approx(total)
    state = pyspiel.load_game("tic_tac_toe").new_initial_state()
    for action in applied:
        state.apply_action(action)
    if state.is_terminal():
        assert info["outcome"] == {1.0: "win", -1.0: "loss", 0.0: "draw"}[state.returns()[seat]]
        penalties = [by_rules - mine for by_rules, mine in zip(state.returns(), info["returns"])]
        assert penalties == [0.0, 0.0] or on_invalid == "penalty:0.5"
        assert all(penalty >= 0 and penalty % 0.5 == 0 for penalty in penalties)
    else:
        assert on_invalid in ("lose", "retry:2", "retry:30")
        assert sorted(info["returns"]) == [-1.5, 0.5]
        assert info["outcome"] == ("invalid" if info["returns"][seat] == -1.5 else "win")


@pytest.mark.parametrize(
    ("setting", "meaning"),
    [
        ("lose", ("lose", 0.0)),
        ("random", ("random", 0.0)),
        ("retry:0", ("retry", 0.0)),
        ("retry:12", ("retry", 12.0)),
        ("penalty:0.1", ("penalty", 0.1)),
        ("penalty:-0.1", ("penalty", 0.1)),
        *[(bad, None) for bad in ("", "loose", "lose:1", "random:2", "retry", "retry:", "retry:-1", "retry:1.5")],
        *[(bad, None) for bad in ("retry:²", "penalty", "penalty:x", "penalty:nan", "penalty:inf", None, 3)],
    ],
)
def test_on_invalid_settings(setting: Any, meaning: tuple[str, float] | None) -> None:
    if meaning is not None:
        assert parse_on_invalid(setting) == meaning
        return
    with pytest.raises(ValueError, match="on_invalid must be lose, retry:n, penalty:x or random") as error:
        parse_on_invalid(setting)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("game", [TicTacToe, "llm_gym.games.tic_tac_toe:TicTacToe", lambda: TicTacToe()])
def test_a_game_is_made_from_a_class_a_callable_or_its_name(game: Any) -> None:
    assert type(make_game(game)) is TicTacToe


@pytest.mark.parametrize(
    ("game", "settings", "message"),
    [
        (TicTacToe, {"size": 4}, "TicTacToe got an unexpected keyword argument 'size'"),
        (lambda: 3, {}, "game must make a TextGame, but .* made a int"),
    ],
)
def test_a_game_that_cannot_be_made_says_why(game: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_game(game, **settings)
