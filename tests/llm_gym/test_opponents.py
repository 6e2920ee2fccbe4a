"""Opponents: who is refused what, perfect play against brute force, equilibria against exploitability."""

from __future__ import annotations

import json
import random
from typing import Any

import gymnasium
import numpy as np
import pytest

from llm_gym.game import IllegalAction, TextGame
from llm_gym.games.tic_tac_toe import TicTacToe
from llm_gym.opponents import PLAYERS, make_player
from llm_gym.opponents.minimax import minimax_value
from llm_gym.opponents.search import MCTS


class Guess(TextGame):
    """Two players without a list of legal actions."""

    num_players = 2

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.current_player = 0

    def observe(self, player: int) -> str:
        return "Say something."

    def apply(self, action: str) -> None:
        raise IllegalAction(action)

    def returns(self) -> list[float]:
        return [0.0, 0.0]


class Dice(TicTacToe):
    has_chance = True


def make(name: str, opponent: Any, **settings: Any) -> gymnasium.Env:
    pytest.importorskip("pyspiel")
    return gymnasium.make(f"llmgym/{name}-v0", opponent=opponent, **settings)


def results(env: gymnasium.Env, games: int) -> list[float]:
    """What an agent that plays at random earns in each of so many games."""
    rng, earned = random.Random(0), []
    for seed in range(games):
        _, info = env.reset(seed=seed)
        over = "outcome" in info
        while not over:
            _, _, over, _, info = env.step(f"\\boxed{{{rng.choice(info['legal_actions'])}}}")
        earned.append(info["returns"][info["player"]])
    return earned


@pytest.mark.parametrize(
    ("name", "opponent", "says"),
    [
        ("TicTacToe", "nobody", "random, first, minimax, mcts, ismcts, nash or a callable"),
        ("TicTacToe", None, "or a callable"),
        ("TicTacToe", "mcts(", "opponent must be one of"),
        ("TicTacToe", "mcts(__import__('os'))", "cannot be read; the settings of mcts: simulations, rollouts, uct_c"),
        ("TicTacToe", "mcts(depth=3)", "cannot be read; the settings of mcts"),
        ("TicTacToe", "first(1)", "the settings of first: none"),
        ("TicTacToe", "mcts(0)", "simulations must be a whole number of at least 1, not 0"),
        ("TicTacToe", "ismcts", "ismcts plays OpenSpiel's games only"),
        ("TicTacToe", "nash", "nash plays kuhn_poker and leduc_poker"),
        ("Hex", "nash", "nash plays kuhn_poker and leduc_poker"),
        ("Hex", "ismcts", "use mcts"),
        ("Chess", "minimax", "use mcts"),
        ("Pig", "minimax", "no chance"),
        ("KuhnPoker", "minimax", "nothing hidden"),
        ("KuhnPoker", "mcts", "hides part of it"),
        ("Goofspiel", "mcts", "hides part of it"),
        ("OpenSpiel", "ismcts", "use mcts"),
    ],
)
def test_who_cannot_play_is_refused_when_made(name: str, opponent: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        make(name, opponent)
    assert "\n" not in str(caught.value)


def test_hidden_information_that_cannot_be_drawn_anew_is_refused() -> None:
    with pytest.raises(ValueError, match="ismcts cannot resample"):
        make("OpenSpiel", "ismcts", game="battleship")


@pytest.mark.parametrize("name", ["random", "first", "mcts", "minimax"])
def test_games_without_listed_actions_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lists its legal actions; Guess does not"):
        make_player(name, Guess())


def test_mcts_refuses_chance_that_it_cannot_look_through() -> None:
    with pytest.raises(ValueError, match="draws its chance itself"):
        make_player("mcts", Dice())
    assert isinstance(make_player("mcts", TicTacToe()), MCTS)


def test_settings_are_read() -> None:
    by_name, by_place = (
        make_player("mcts(simulations=7, uct_c=0.5)", TicTacToe()),
        make_player(" mcts(7) ", TicTacToe()),
    )
    assert isinstance(by_name, MCTS)
    assert isinstance(by_place, MCTS)
    assert (by_name.simulations, by_name.uct_c, by_place.simulations, by_place.uct_c) == (7, 0.5, 7, 1.414)


@pytest.mark.parametrize("name", ["TicTacToe", "OpenSpiel"])
def test_minimax_never_loses_at_tic_tac_toe(name: str) -> None:
    """Against every line of play, from both seats: all games are walked, minimax's choices being the game's own."""
    game = make(name, "random").unwrapped.game  # type: ignore[attr-defined]
    player, rng = make_player("minimax", game), np.random.default_rng(0)
    for seat in range(2):
        game.reset(rng)
        ends, seen = [game], set()
        while ends:
            state = ends.pop()
            if state.current_player is None:
                assert state.returns()[seat] >= 0
                continue
            actions = [player.choose(state, rng)] if state.current_player == seat else state.legal_actions()
            for action in actions:
                child = state.clone()
                child.apply(action)
                if child.position() not in seen:
                    seen.add(child.position())
                    ends.append(child)
        assert len(seen) > 100
    assert max(results(make(name, "minimax", seat="alternate"), 30)) <= 0


def test_minimax_errs_with_the_probability_epsilon() -> None:
    """On a board where one of five moves is right, it plays one of the other four in 4 / 5 of its random moves."""
    game = TicTacToe()
    game.reset(np.random.default_rng(0))
    for action in ("0", "3", "1", "4"):
        game.apply(action)  # X wins at 2; O threatens 5
    rng = np.random.default_rng(1)
    for epsilon in (0, 0.5, 1.0):
        player = make_player(f"minimax(epsilon={epsilon})", game)
        wrong = sum(player.choose(game, rng) != "2" for _ in range(2000))
        assert abs(wrong / 2000 - epsilon * 0.8) < 0.04, epsilon


@pytest.mark.parametrize("epsilon", ["-0.1", "1.5", "True", "'0.5'"])
def test_an_epsilon_that_is_no_probability_is_refused(epsilon: str) -> None:
    with pytest.raises(ValueError, match=r"settings of minimax: epsilon|from 0 to 1"):
        make_player(f"minimax(epsilon={epsilon})", TicTacToe())


@pytest.mark.parametrize(
    "name", ["tic_tac_toe", "misere(game=tic_tac_toe())", "nim", "hex(board_size=3)", "clobber(rows=3,columns=3)"]
)
def test_minimax_values_are_openspiels(name: str) -> None:
    pytest.importorskip("pyspiel")
    minimax = pytest.importorskip("open_spiel.python.algorithms.minimax")
    from llm_gym.games.openspiel import OpenSpiel

    rng = random.Random(1)
    for seed in range(4):
        game = OpenSpiel(name)
        game.reset(np.random.default_rng(seed))
        for _ in range(3):
            if game.current_player is not None:
                game.apply(rng.choice(game.legal_actions()))
        if game.current_player is not None:
            value, _ = minimax.alpha_beta_search(game.spiel_game, game.state, maximizing_player_id=0)
            assert minimax_value(game) == value


@pytest.mark.parametrize(("name", "simulations"), [("TicTacToe", 60), ("OpenSpiel", 60), ("ConnectFour", 30)])
def test_mcts_beats_random_play(name: str, simulations: int) -> None:
    """Our own search, and OpenSpiel's: at least 15 points of 20 games (a fair player has 0, deviation 4.5)."""
    assert sum(results(make(name, f"mcts({simulations})", seat="alternate"), 20)) <= -15


@pytest.mark.parametrize("moves", ["0314", "0483", "4018", "80", "4"])
def test_mcts_with_time_plays_perfectly(moves: str) -> None:
    """It takes the win, blocks the other's, and knows the only good answers to the first moves."""
    rng = np.random.default_rng(0)
    game = TicTacToe()
    game.reset(rng)
    for move in moves:
        game.apply(move)
    child = game.clone()
    child.apply(make_player("mcts(2000)", game).choose(game, rng))
    assert minimax_value(child) == minimax_value(game)


@pytest.mark.parametrize("opponent", ["mcts(50)", "mcts(simulations=5, rollouts=2)"])
def test_mcts_leaves_the_game_as_it_was(opponent: str) -> None:
    for name in ("TicTacToe", "Backgammon"):
        game = make(name, "random").unwrapped.game  # type: ignore[attr-defined]
        game.reset(np.random.default_rng(0))
        before = game.serialize()
        assert make_player(opponent, game).choose(game, np.random.default_rng(1)) in game.legal_actions()
        assert game.serialize() == before


@pytest.mark.parametrize(
    "name", ["kuhn_poker", "leduc_poker", "liars_dice(numdice=2)", "goofspiel(num_cards=4)", "gin_rummy"]
)
def test_ismcts_does_not_see_what_is_hidden(name: str) -> None:
    """From states that differ only in what the player cannot know it makes the same draws, and the same choice."""
    pytest.importorskip("pyspiel")
    from llm_gym.games.openspiel import OpenSpiel
    from llm_gym.games.openspiel.tree import Node
    from llm_gym.opponents.redraw import can_redraw, redraw

    game, rng, compared = OpenSpiel(name), random.Random(0), 0
    player = make_player("ismcts(40)" if name != "gin_rummy" else "ismcts(3)", game)
    for seed in range(9):
        game.reset(np.random.default_rng(seed))
        for _ in range(seed % 3):
            if game.current_player is not None:
                game.apply(rng.choice(game.legal_actions()))
        mover = game.current_player
        if mover is None:
            continue
        state = (
            redraw(game.state, mover, rng)
            if can_redraw(game)
            else game.state.resample_from_infostate(mover, rng.random)
        )
        twin = game.clone()
        twin.node = Node(state, None)
        compared += (str(state), state.history()) != (str(game.state), game.state.history())
        assert player.choose(game, np.random.default_rng(seed)) == player.choose(twin, np.random.default_rng(seed))
    assert compared > 0


@pytest.mark.parametrize("name", ["KuhnPoker", "LiarsDice"])
def test_ismcts_beats_random_play(name: str) -> None:
    assert sum(results(make(name, "ismcts(60)", seat="alternate"), 100)) < -10


def test_a_liars_dice_redraw_keeps_own_dice_and_bids() -> None:
    pyspiel = pytest.importorskip("pyspiel")
    from llm_gym.opponents.redraw import redraw

    state = pyspiel.load_game("liars_dice(numdice=2)").new_initial_state()
    for action in (0, 4, 2, 3, 1):
        state.apply_action(action)
    rng, hidden = random.Random(0), []
    for _ in range(300):
        drawn = redraw(state, 1, rng)
        history = drawn.history()
        assert sorted(history[2:4]) == [2, 3]
        assert history[4:] == [1]
        hidden.append(tuple(history[:2]))
    assert len(set(hidden)) == 36


@pytest.fixture
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from llm_gym.opponents.nash import nash_table

    monkeypatch.setenv("LLM_GYM_CACHE", str(tmp_path / "tables"))
    nash_table.cache_clear()
    yield tmp_path / "tables"
    nash_table.cache_clear()


@pytest.mark.parametrize(("name", "iterations", "bound"), [("kuhn_poker", 5000, 1e-4), ("leduc_poker", 60, 0.08)])
def test_nash_tables_are_close_to_equilibrium(name: str, iterations: int, bound: float, cache: Any) -> None:
    """By OpenSpiel's exploitability of the table as it is read back, not by what the table says of itself."""
    pyspiel = pytest.importorskip("pyspiel")
    policies = pytest.importorskip("open_spiel.python.policy")
    exploitability = pytest.importorskip("open_spiel.python.algorithms.exploitability")
    from llm_gym.opponents.nash import nash_table

    game = pyspiel.load_game(name)
    nash_table(str(game), iterations)
    nash_table.cache_clear()
    table = nash_table(str(game), iterations)  # from its file
    policy = policies.TabularPolicy(game)
    for seen, chances in table.policy.items():
        row = policy.policy_for_key(seen)
        row[:] = 0
        for action, chance in chances:
            row[action] = chance
    assert len(table.policy) == len(policy.state_lookup)
    measured = exploitability.nash_conv(game, policy)
    assert measured < bound
    assert measured == pytest.approx(table.nash_conv, abs=1e-6)


def test_nash_play_follows_the_table_and_holds_its_value(cache: Any) -> None:
    """Kuhn's value is -1/18 to the first player; no opponent can push an equilibrium player below it."""
    env = make("KuhnPoker", "nash", seat=1)
    earned = results(env, 4000)
    assert np.mean(earned) < 1 / 18 + 3 * np.std(earned) / 4000**0.5
    assert len(list(cache.iterdir())) == 1
    kept = json.loads(next(cache.iterdir()).read_text())
    assert kept["nash_conv"] < 1e-3


def test_a_broken_table_is_computed_anew(cache: Any) -> None:
    from llm_gym.opponents.nash import nash_table

    pytest.importorskip("pyspiel")
    first = nash_table("kuhn_poker()", 50)
    next(cache.iterdir()).write_text('{"policy": {')
    nash_table.cache_clear()
    assert nash_table("kuhn_poker()", 50) == first
    assert json.loads(next(cache.iterdir()).read_text())["iterations"] == 50


def test_every_player_is_documented() -> None:
    import llm_gym.opponents

    assert all(f"``{name}" in str(llm_gym.opponents.__doc__) for name in PLAYERS)
