"""Tic-tac-toe."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_gym.game import IllegalAction, TextGame

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
# The pairs of other cells that complete a line through each cell.
PAIRS = {str(cell): [tuple(c for c in line if c != cell) for line in LINES if cell in line] for cell in range(9)}


class TicTacToe(TextGame):
    """Tic-tac-toe, ``llmgym/TicTacToe-v0``.

    ## Observation
    The player's mark and the board. A free cell shows its number, a taken one its mark::

        You are X.
        0 X 2
        3 O 5
        6 7 8

    ## Action
    The number of a free cell, ``0`` to ``8``, row by row from the top left; in the default format ``\\boxed{4}``.

    ## Reward
    At the end +1 to the winner, -1 to the loser, 0 to both for a draw.

    ## Start and end
    Seat 0 is X and moves first. Three in a row end the game, or a full board.

    ## Version history
    v0: first version.
    """

    num_players = 2
    rules = "Tic-tac-toe: three in a row wins. Cells are numbered 0 to 8, a free cell shows its number."
    example = "4"

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.board = list("012345678")
        self.current_player: int | None = 0
        self.winner: int | None = None
        self.free = 9

    def observe(self, player: int) -> str:
        return "You are {}.\n{} {} {}\n{} {} {}\n{} {} {}".format("XO"[player], *self.board)

    def legal_actions(self) -> list[str]:
        return [] if self.current_player is None else [cell for cell in self.board if cell in PAIRS]

    def apply(self, action: str) -> None:
        player, board = self.current_player, self.board
        if player is None or action not in PAIRS or board[int(action)] != action:
            raise IllegalAction(action)
        mark = "XO"[player]
        board[int(action)] = mark
        self.free -= 1
        self.current_player = 1 - player if self.free else None
        for a, b in PAIRS[action]:
            if board[a] == mark == board[b]:
                self.winner, self.current_player = player, None

    def returns(self) -> list[float]:
        if self.winner is None:
            return [0.0, 0.0]
        return [1.0, -1.0] if self.winner == 0 else [-1.0, 1.0]

    def clone(self) -> TicTacToe:
        twin = TicTacToe()
        twin.__dict__.update(self.__dict__, board=self.board[:])
        return twin

    def serialize(self) -> bytes:
        return "".join(self.board).encode()

    @staticmethod
    def deserialize(data: bytes) -> TicTacToe:
        game = TicTacToe()
        game.board = board = list(data.decode())
        game.free = sum(cell in PAIRS for cell in board)
        game.winner = next(("XO".index(board[a]) for a, b, c in LINES if board[a] == board[b] == board[c]), None)
        game.current_player = None if game.winner is not None or not game.free else (9 - game.free) % 2
        return game
