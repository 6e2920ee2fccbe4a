"""Tic-tac-toe against OpenSpiel's, and minimax against every line of play."""

import random

import numpy as np
import pyspiel
import pytest

from llm_gym import IllegalAction
from llm_gym.games.tic_tac_toe import LINES, TicTacToe
from llm_gym.opponents import make_player
from llm_gym.opponents.minimax import minimax_value

RNG = np.random.default_rng(0)


def new_game() -> TicTacToe:
    game = TicTacToe()
    game.reset(RNG)
    return game


def test_agrees_with_openspiel_over_random_games() -> None:
    rng, spiel = random.Random(0), pyspiel.load_game("tic_tac_toe")
    ends = []
    for _ in range(1000):
        game, state = new_game(), spiel.new_initial_state()
        while not state.is_terminal():
            assert game.current_player == state.current_player()
            assert game.legal_actions() == [str(action) for action in state.legal_actions()]
            action = rng.choice(state.legal_actions())
            game.apply(str(action))
            state.apply_action(action)
            marks = "".join("." if cell.isdigit() else cell.lower() for cell in game.board)
            assert marks == str(state).replace("\n", "")
        assert (game.current_player, game.legal_actions()) == (None, [])
        assert game.returns() == state.returns()
        ends.append(game.outcome(0))
    assert set(ends) == {"win", "loss", "draw"}


def test_every_reachable_state_survives_copying() -> None:
    """Against OpenSpiel's count of states: 5,478 of them, 958 terminal."""
    todo, states = [new_game()], {}
    while todo:
        game = todo.pop()
        data = game.serialize()
        if data in states:
            continue
        states[data] = game
        for twin in (game.clone(), TicTacToe.deserialize(data)):
            assert vars(twin) == vars(game)
            assert twin.serialize() == data
            assert [twin.observe(seat) for seat in (0, 1)] == [game.observe(seat) for seat in (0, 1)]
        for action in game.legal_actions():
            child = game.clone()
            child.apply(action)
            todo.append(child)
        assert game.serialize() == data  # what a clone does stays with the clone
    assert len(states) == 5478
    assert sum(game.current_player is None for game in states.values()) == 958


@pytest.mark.parametrize("action", ["", "9", "-1", "00", "4 ", "²", "X", "None", "\ud800"])
def test_an_illegal_action_changes_nothing(action: str) -> None:
    game = new_game()
    before = dict(vars(game), board=list(game.board))
    with pytest.raises(IllegalAction):
        game.apply(action)
    assert vars(game) == before


@pytest.mark.parametrize(("moves", "refused"), [("4", "4"), ("40", "0"), ("03142", "5"), ("012453687", "0")])
def test_taken_cells_and_finished_games_take_no_action(moves: str, refused: str) -> None:
    game = new_game()
    for move in moves:
        game.apply(move)
    with pytest.raises(IllegalAction):
        game.apply(refused)


def test_each_player_is_told_its_mark_and_the_board() -> None:
    game = new_game()
    for move in "14":
        game.apply(move)
    assert game.observe(0) == "You are X.\n0 X 2\n3 O 5\n6 7 8"
    assert game.observe(1) == "You are O.\n0 X 2\n3 O 5\n6 7 8"


def test_minimax_values_are_those_of_perfect_play() -> None:
    """Against a search written apart from the game, on all states: bit boards, no shared code."""
    wins = [sum(1 << cell for cell in line) for line in LINES]
    values: dict[tuple[int, int], int] = {}

    def value(mine: int, theirs: int) -> int:
        if any(theirs & win == win for win in wins):
            return -1
        if mine | theirs == 511:
            return 0
        if (mine, theirs) not in values:
            free = [1 << cell for cell in range(9) if not (mine | theirs) >> cell & 1]
            values[mine, theirs] = max(-value(theirs, mine | bit) for bit in free)
        return values[mine, theirs]

    assert value(0, 0) == minimax_value(new_game()) == 0
    for mine, theirs in list(values):
        to_move = bin(mine | theirs).count("1") % 2
        own, other = ("X", "O") if to_move == 0 else ("O", "X")
        board = [own if mine >> c & 1 else other if theirs >> c & 1 else str(c) for c in range(9)]
        game = TicTacToe.deserialize("".join(board).encode())
        assert game.current_player == to_move
        assert minimax_value(game) == value(mine, theirs) * (1 if to_move == 0 else -1)


@pytest.mark.parametrize("seat", [0, 1])
def test_minimax_never_loses_over_all_lines_of_play(seat: int) -> None:
    """Every reply of the other side, and every choice that minimax makes among equals over eight draws."""
    player, seen, ends = make_player("minimax", new_game()), set(), set()
    todo = [new_game()]
    while todo:
        game = todo.pop()
        if game.serialize() in seen:
            continue
        seen.add(game.serialize())
        if game.current_player is None:
            ends.add(game.outcome(seat))
            continue
        mine = game.current_player == seat
        for action in {player.choose(game, RNG) for _ in range(8)} if mine else game.legal_actions():
            child = game.clone()
            child.apply(action)
            todo.append(child)
    assert ends == {"win", "draw"}
