"""OpenSpiel's games as text: all of them play, by OpenSpiel's own rules, and nothing leaks out of C++."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

pyspiel = pytest.importorskip("pyspiel")
pytest.importorskip("open_spiel.python.games")

import llm_gym  # noqa: E402
from llm_gym.game import IllegalAction  # noqa: E402
from llm_gym.games.openspiel import OpenSpiel  # noqa: E402
from llm_gym.games.openspiel.loading import silenced  # noqa: E402
from llm_gym.games.openspiel.rules import BOARD_SAYS_ALL, NOTES  # noqa: E402
from llm_gym.match import Match  # noqa: E402
from llm_gym.testing import JUNK  # noqa: E402

NEED_SETTINGS = {
    *("add_noise", "cached_tree", "efg_game", "misere", "nfg_game", "normal_form_extensive_game", "repeated_game"),
    *("repeated_poker", "restricted_nash_response", "start_at", "turn_based_simultaneous_game", "zerosum"),
}
NOT_TEXT = {"chat_game", "crossword", "mfg_crowd_modelling", "mfg_crowd_modelling_2d", "mfg_dynamic_routing"} | {
    "mfg_garnet"
}
PLAYABLE = sorted(set(pyspiel.registered_names()) - NEED_SETTINGS - NOT_TEXT)
SLOW_TO_PLAY = {"bridge": 6, "bridge_uncontested_bidding": 1}  # every hand is solved double-dummy: few moves will do
NAMED = [name for name, settings in llm_gym.GAMES.items() if settings["text_game"].endswith(":OpenSpiel")]
TRANSFORMED = [
    "misere(game=tic_tac_toe())",
    "misere(game=hex(board_size=3))",
    "turn_based_simultaneous_game(game=goofspiel(num_cards=3))",
    "repeated_game(stage_game=matrix_pd(),num_repetitions=3)",
    "add_noise(game=kuhn_poker(),epsilon=0.1,seed=1)",
    "start_at(game=tic_tac_toe(),history=4;0)",
    "zerosum(game=connect_four())",
    "normal_form_extensive_game(game=kuhn_poker())",
]


def started(name: str, seed: int = 0, **settings: Any) -> OpenSpiel:
    game = OpenSpiel(name, **settings)
    game.reset(np.random.default_rng(seed))
    return game


def play(game: OpenSpiel, seed: int, moves: int, rng: random.Random | None = None) -> list[Any]:
    """All that is seen of a random game, with the numbers of OpenSpiel's actions at its end."""
    rng = rng or random.Random(seed)
    game.reset(np.random.default_rng(seed))
    trace: list[Any] = []
    while game.current_player is not None and moves:
        legal = game.legal_actions()
        action = rng.choice(legal)
        trace.append((game.current_player, game.observe(game.current_player), legal, action))
        game.apply(action)
        moves -= 1
    return [*trace, game.returns(), game.state.history()]


def raw_game(name: str) -> Any:
    with silenced():  # Quoridor warns
        game = pyspiel.load_game(name)
    if game.get_type().dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS:
        return pyspiel.convert_to_turn_based(game)
    return game


def test_at_least_108_loadable_games_and_the_9_python_games_play() -> None:
    python = [name for name in PLAYABLE if name.startswith("python_")]
    loadable = [game for game in pyspiel.registered_games() if game.default_loadable]
    assert len(python) == 9
    assert len(set(PLAYABLE) & {game.short_name for game in loadable} - set(python)) >= 108


@pytest.mark.parametrize("name", PLAYABLE)
def test_plays_by_openspiels_rules(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Texts, legal actions and returns are those of a state that is led along by OpenSpiel alone."""
    game = OpenSpiel(name)
    trace = play(game, seed=1, moves=SLOW_TO_PLAY.get(name, 60))
    history = trace.pop()
    returns = trace.pop()
    low, high = game.reward_range
    assert all(low <= earned <= high for earned in returns), (returns, game.reward_range)
    # A game with a generator of its own is named with the seed that this episode had.
    state = raw_game(str(game.spiel_game) if game.own_chance else name).new_initial_state()
    for action in history:
        if not state.is_chance_node():
            player, text, legal, chosen = trace.pop(0)
            assert state.current_player() == player
            views = []
            for view in ("information_state_string", "observation_string"):
                if getattr(state.get_game().get_type(), f"provides_{view}"):
                    views.append(getattr(state, view)(player).strip("\n"))
            assert not views or any(text.endswith(view[-4000:]) for view in views)
            names = [state.action_to_string(player, number) for number in state.legal_actions()]
            assert all(any(short in long for long in names) for short in legal)
            assert len(legal) == len(names) or name == "backgammon"
            assert chosen in state.action_to_string(player, action)
        state.apply_action(action)
    assert trace == []
    assert state.returns() == returns
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", PLAYABLE)
def test_copies_play_on_alike(name: str) -> None:
    game = started(name, seed=2)
    rng = random.Random(2)
    for _ in range(SLOW_TO_PLAY.get(name, 3)):
        if game.current_player is not None:
            game.apply(rng.choice(game.legal_actions()))
    written = game.serialize()
    twins = [game.clone(), copy.deepcopy(game), pickle.loads(pickle.dumps(game)), OpenSpiel.deserialize(written)]
    assert all(twin.serialize() == written for twin in twins)
    before = (game.current_player, game.observe(0), game.legal_actions())
    outcomes = [play_on(twin, moves=SLOW_TO_PLAY.get(name, 5)) for twin in twins]
    assert (game.current_player, game.observe(0), game.legal_actions()) == before
    assert all(outcome == play_on(game.clone(), moves=SLOW_TO_PLAY.get(name, 5)) for outcome in outcomes)


def play_on(game: Any, moves: int) -> list[Any]:
    rng, seen = random.Random(3), []
    while game.current_player is not None and moves:
        game.apply(rng.choice(game.legal_actions()))
        seen.append((game.current_player, game.observe(0), game.legal_actions(), game.returns()))
        moves -= 1
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PLAYABLE) - set(SLOW_TO_PLAY)))
def test_whole_games_stay_within_their_range(name: str) -> None:
    game = OpenSpiel(name)
    low, high = game.reward_range
    for seed in range(10):
        returns, history = play(game, seed, moves=20_000)[-2:]
        assert all(low <= earned <= high for earned in returns), (returns, game.reward_range)
        assert play(game, seed, moves=20_000)[-1] == history


@pytest.mark.parametrize("name", sorted(NEED_SETTINGS | NOT_TEXT))
def test_what_does_not_play_says_why_in_one_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=f"OpenSpiel.*{name}") as caught:
        OpenSpiel(name)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformed_games_play(name: str) -> None:
    trace = play(OpenSpiel(name), seed=0, moves=100)
    state = pyspiel.load_game_as_turn_based(name).new_initial_state()
    for action in trace[-1]:
        state.apply_action(action)
    assert state.is_terminal()
    assert state.returns() == trace[-2]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"game": "no_such_game"}, "no game called 'no_such_game'"),
        ({"game": "hex("}, "hex\\(board_size=5\\)"),
        ({"game": "hex(sides=5)"}, "sides"),
        ({"game": "hex", "board_size": "wide"}, "board_size"),
        ({"game": "kuhn_poker", "players": 99}, "OpenSpiel cannot load kuhn_poker"),
        ({"game": "hex", "view": "picture"}, "view must be one of auto, information_state, observation"),
        ({"game": "hex", "max_chars": 0}, "max_chars"),
        ({"game": "liars_dice", "view": "observation"}, "no observation text"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        OpenSpiel(**settings)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_settings_override_those_within_the_name() -> None:
    assert OpenSpiel("hex(board_size=5)", board_size=3).spiel_game.num_distinct_actions() == 9
    env = gymnasium.make("llmgym/Hex-v0", board_size=4)
    assert len(env.reset(seed=0)[1]["legal_actions"]) == 16


def test_kuhn_returns_equal_openspiels_for_all_30_terminal_histories() -> None:
    """Played through the environment's own view, bets moving chips and the better card winning."""
    ends = []
    for deal in itertools.permutations(range(3), 2):
        for moves in (
            ["Pass", "Pass"],
            ["Pass", "Bet", "Pass"],
            ["Pass", "Bet", "Bet"],
            ["Bet", "Pass"],
            ["Bet", "Bet"],
        ):
            game = OpenSpiel("kuhn_poker")
            match = Match(game, None, "lose", False)
            match.reset(Deals(deal), None)
            for move in moves:
                match.apply_reply(match.current_player, f"\\boxed{{{move}}}")
            state = pyspiel.load_game("kuhn_poker").new_initial_state()
            for action in [*deal, *(["Pass", "Bet"].index(move) for move in moves)]:
                state.apply_action(action)
            assert match.current_player is None
            assert match.returns() == state.returns()
            stake = 1 if "Bet" not in moves[:-1] or moves[-1] == "Pass" else 2
            winner = moves.index("Bet") % 2 if moves[-1] == "Pass" and "Bet" in moves else int(deal[1] > deal[0])
            assert match.returns() == [stake * (1 if winner == seat else -1) for seat in range(2)]
            ends.append(tuple(state.history()))
    assert len(set(ends)) == 30


class Deals(np.random.Generator):
    """A generator whose draws deal the given cards of Kuhn poker, all equally likely."""

    def __init__(self, cards: tuple[int, ...]) -> None:
        super().__init__(np.random.PCG64(0))
        left, self.draws = [0, 1, 2], []
        for card in cards:
            self.draws.append((left.index(card) + 0.5) / len(left))
            left.remove(card)

    def random(self, *args: Any, **kwargs: Any) -> Any:
        return self.draws.pop(0)


def test_chance_follows_openspiels_probabilities() -> None:
    """Backgammon's first roll and Kuhn's deals, against the exact chances (chi-squared, 0.1 % level)."""
    game, rng, counts = OpenSpiel("kuhn_poker"), np.random.default_rng(0), {}
    for _ in range(6000):
        game.reset(rng)
        deal = tuple(game.state.history())
        counts[deal] = counts.get(deal, 0) + 1
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_every_board_that_says_all_does() -> None:
    """Equal positions of small boards have equal values: brute force over histories, without positions."""
    small = {"hex": "hex(board_size=2)", "y": "y(board_size=3)", "nim": "nim(pile_sizes=1;2;3)"}
    small |= {"clobber": "clobber(rows=2,columns=4)", "connect_four": "connect_four(rows=3,columns=2,x_in_row=3)"}
    small |= {
        "dots_and_boxes": "dots_and_boxes(num_rows=1,num_cols=2)",
        "breakthrough": "breakthrough(rows=4,columns=2)",
    }
    small |= {"tic_tac_toe": "tic_tac_toe", "mnk": "mnk(m=3,n=2,k=2)"}
    assert set(small) == BOARD_SAYS_ALL - {"othello", "pentago"}  # too large for brute force
    for name in small.values():
        game, values = OpenSpiel(name), {}

        def value(game: Any, values: dict = values) -> float:
            if game.current_player is None:
                return game.returns()[0]
            best = max if game.current_player == 0 else min
            children = [game.clone() for _ in game.legal_actions()]
            for child, action in zip(children, game.legal_actions()):
                child.apply(action)
            found = best(value(child) for child in children)
            assert values.setdefault(game.position(), found) == found
            return found

        game.reset(np.random.default_rng(0))
        if name == "tic_tac_toe":
            for action in ("x(1,1)", "o(0,0)"):
                game.apply(action)
        value(game)
        assert len(values) > 3


@pytest.mark.parametrize("name", NAMED)
def test_named_games_explain_themselves(name: str) -> None:
    env = gymnasium.make(f"llmgym/{name}-v0")
    game = env.unwrapped.game
    _, info = env.reset(seed=0)
    system, user = (message["content"] for message in info["messages"])
    assert 60 < len(game.rules) < 1000
    assert "{" not in game.rules
    assert game.example in system
    assert user.startswith("You are player 0") == (game.num_players > 1)
    assert game.spiel_game.get_type().short_name in {*NOTES, "tic_tac_toe", "turn_based_simultaneous_game"}


@pytest.mark.parametrize("name", ["kuhn_poker", "chess", "gin_rummy", "2048", "goofspiel", "python_tic_tac_toe"])
def test_hostile_actions_are_illegal_and_change_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    game = started(name)
    before = game.serialize()
    for action in (*JUNK, "-1", "0", "99999999999", "None", "Fold ", "\x00Pass"):
        if action not in game.legal_actions():
            with pytest.raises(IllegalAction):
                game.apply(action)
    assert game.serialize() == before
    assert capfd.readouterr() == ("", "")


def test_long_texts_are_cut_with_a_note() -> None:
    whole, cut = started("tic_tac_toe"), started("tic_tac_toe", max_chars=5)
    assert whole.observe(0) == "You are player 0.\n...\n...\n..."
    assert cut.observe(0) == "You are player 0.\n[the first 6 characters are cut]\n.\n..."


def test_long_legal_lists_are_cut_in_the_prompt_alone() -> None:
    env = gymnasium.make("llmgym/Go-v0", board_size=19, show_legal=True)
    observation, info = env.reset(seed=0)
    assert len(info["legal_actions"]) == 362
    assert observation.endswith("... (362 in all)")
    assert len(observation.split("Legal actions: ")[1].split(", ")) == 100


def test_the_view_can_be_chosen() -> None:
    assert started("tic_tac_toe", view="information_state").observe(0) == "You are player 0.\n"
    assert "Round1" not in started("leduc_poker", view="observation").observe(0)


def test_environments_of_one_game_do_not_meddle() -> None:
    """States are shared between environments of a short game: none sees what another plays."""
    alone = play(OpenSpiel("leduc_poker"), seed=5, moves=50)
    games = [OpenSpiel("leduc_poker") for _ in range(3)]
    rngs = [random.Random(5) for _ in games]
    for game in games:
        game.reset(np.random.default_rng(5))
    other = started("leduc_poker", seed=6)
    while games[0].current_player is not None:
        for game, rng in zip(games, rngs):
            game.apply(rng.choice(game.legal_actions()))
        if other.current_player is not None:
            other.apply(other.legal_actions()[0])
    assert all([game.returns(), game.state.history()] == alone[-2:] for game in games)


def test_outcomes() -> None:
    single = started("2048", max_tile=8)
    while single.current_player is not None:
        single.apply(single.legal_actions()[0])
    assert single.outcome(0) == ("solved" if single.returns()[0] > 8 else "failed")
    for returns, outcomes in (
        ([3.0, 1.0], ["win", "loss"]),
        ([2.0, 2.0], ["draw", "draw"]),
        ([0.0, -1.0], ["win", "loss"]),
    ):
        game = started("bargaining")
        game.returns = lambda returns=returns: returns  # type: ignore[method-assign]
        assert [game.outcome(seat) for seat in range(2)] == outcomes
    together = started("tiny_hanabi")
    for _ in range(2):
        together.apply(together.legal_actions()[0])
    assert {together.outcome(0), together.outcome(1)} == {"solved" if together.returns()[0] > 0 else "failed"}


def test_2048_can_pay_more_than_openspiel_says() -> None:
    """OpenSpiel's maximum counts the merges behind the last tile only; a greedy player exceeds it, not our range."""
    game = OpenSpiel("2048", max_tile=16)
    best = 0.0
    for seed in range(300):
        best = max(best, play(game, seed, moves=1000)[-2][0])
    assert game.spiel_game.max_utility() < best <= game.reward_range[1]


SCRIPT = """
import json, random, threading, time
import numpy as np
stop = threading.Event()
def disturb():
    while not stop.is_set():
        random.random(); np.random.random(); time.sleep(0.001)
thread = threading.Thread(target=disturb); thread.start()
import gymnasium, llm_gym
trace = []
for name, opponent in (
    ("Backgammon", "mcts(20)"), ("LeducPoker", "ismcts(50)"), ("LiarsDice", "ismcts(20)"),
    ("Hex", "mcts(50)"), ("TicTacToe", "mcts(20)"), ("Pig", "random"),
):
    env = gymnasium.make(f"llmgym/{name}-v0", opponent=opponent, seat="random")
    for seed in range(2):
        observation, info = env.reset(seed=seed)
        over, turns = "outcome" in info, 0
        while not over and turns < 6:
            observation, reward, over, _, info = env.step("\\\\boxed{%s}" % info["legal_actions"][0])
            trace.append([observation, reward]); turns += 1
stop.set(); thread.join()
print(json.dumps(trace))
"""


def test_a_seed_gives_the_same_episodes_in_other_processes() -> None:
    """Bots and chance included, while another thread draws from the global generators."""
    first, second = (
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert first.stderr == second.stderr == ""
    assert len(json.loads(first.stdout)) > 10
    assert first.stdout == second.stdout


def test_absence_of_openspiel_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspiel", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "llm-gym\[openspiel\]"'):
        OpenSpiel("kuhn_poker")


def test_states_of_y_outlive_the_loading_of_a_larger_board() -> None:
    """OpenSpiel's own states do not: their table of neighbours moves in memory."""
    program = """
import numpy as np
from llm_gym.games.openspiel import OpenSpiel
small = [OpenSpiel("y(board_size=4)") for _ in range(200)]
for game in small:
    game.reset(np.random.default_rng(0))
larger = OpenSpiel("y(board_size=19)")
larger.reset(np.random.default_rng(0))
fresh = OpenSpiel("y(board_size=4)")
fresh.reset(np.random.default_rng(0))
for game in [*small, fresh]:
    while game.current_player is not None:
        game.apply(game.legal_actions()[0])
print({tuple(game.returns()) for game in small} == {tuple(fresh.returns())})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
