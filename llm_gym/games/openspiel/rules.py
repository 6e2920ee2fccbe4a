"""The system messages of OpenSpiel's games: rules and notation of the named games, a generic text for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llm_gym.games.openspiel.loading import import_pyspiel, silenced

BOARD_SAYS_ALL = frozenset(
    {"breakthrough", "clobber", "connect_four", "dots_and_boxes", "hex", "mnk", "nim", "othello", "pentago"}
    | {"tic_tac_toe", "y"}
)
"""Games in which ``str(state)`` and the player to move determine the rest; elsewhere the history does."""


@dataclass(frozen=True)
class Notes:
    """What is known about one game.

    Attributes:
        rules: The system message; empty for the generic one. ``{parameter}`` stands for a parameter of the game.
        shorten: Removes redundant parts of an action string (who moves, an encoded number).
        sides: What the observation calls the seats.
        view: The better one of OpenSpiel's texts, where :class:`OpenSpiel` would choose the other.
    """

    rules: str
    shorten: Callable[[str], str] | None = None
    sides: tuple[str, ...] = ()
    view: str = ""


NOTES: dict[str, Notes] = {
    "kuhn_poker": Notes(
        "Kuhn poker with the cards 0 to {players}; the highest card wins. Everyone antes 1 chip and gets one card. In"
        " turn, players Pass or Bet 1 chip. After a bet, Bet calls it and Pass folds; once everyone has answered, or "
        "all have passed, the highest card not folded takes the pot. Your reward is the chips won or lost. The text "
        "is your card, then the actions so far: p is a Pass, b a Bet. 1pb means: your card is 1, one pass, one bet."
    ),
    "leduc_poker": Notes(
        "Leduc poker for {players} players. There are two cards of each rank, and one rank more than players: cards 0"
        " and 1 are the lowest rank, 2 and 3 the next, and so on. Everyone antes 1 chip and gets one private card. "
        "After a round of betting one public card is shown, and a second round follows. Raise adds 2 chips in round 1"
        " and 4 in round 2, at most two raises a round; Call matches the bet or checks; Fold gives up. At the end a "
        "pair with the public card wins, else the higher rank; equal hands share the pot. Your reward is the chips "
        "won or lost. [Round1: ...] lists the actions so far: 0 Fold, 1 Call, 2 Raise. [Money: ...] is what each "
        "player has left."
    ),
    "liars_dice": Notes(
        "Liar's dice. Each of {players} players rolls {numdice} dice with {dice_sides} faces and sees only their own."
        " A bid such as 2-5 claims that among all dice together at least 2 show a 5; a {dice_sides} is wild and "
        "counts as any face. Each bid must be higher. In this game the order is {bidding_rule}: under reset-face that"
        " is a higher quantity, or the same quantity and a higher face; under reset-quantity a higher face, or the "
        "same face and a higher quantity. Instead of bidding you may say Liar: the bidder wins if the last bid holds,"
        " else the caller does. The text is your dice, then the bids so far."
    ),
    "goofspiel": Notes(
        "Goofspiel. Each player holds the cards 1 to {num_cards}. Each round shows one point card (order: "
        "{points_order}); everyone bids a card of their hand at the same time; the highest bid takes the points, and "
        "equal highest bids take nothing. Bid cards are gone. Most points at the end win ({returns_type}). An action "
        "is the number of the card. Win sequence lists who won each round so far (-3: nobody).",
        shorten=lambda name: name.split("Bid: ")[-1],
        view="information_state",
    ),
    "gin_rummy": Notes(
        "Gin rummy with {hand_size} cards each. Ranks are A 2 3 4 5 6 7 8 9 T J Q K, suits s c d h. Melds are three "
        "or four cards of one rank, or three or more of one suit in sequence; other cards are deadwood: an ace counts"
        " 1, T J Q K 10, others their number. In turn: Draw upcard or Draw stock (the first upcard may be refused "
        "with Pass), then discard a card by naming it, such as Qh. With deadwood of {knock_card} or less you may "
        "Knock: then discard, name your melds one by one (5s5c5d), and Pass when done; the other player lays melds "
        "and may lay off cards. The lower deadwood scores the difference; gin (no deadwood) adds {gin_bonus}, "
        "undercutting a knock {undercut_bonus}. Your reward is the points won or lost.",
        shorten=lambda name: name.split("Action: ")[-1],
    ),
    "othello": Notes(
        "Othello on 8x8. Black (x) moves first. A move puts a disc on an empty cell so that it encloses a straight "
        "line of the other's discs between itself and another of yours; these turn over. An action is the cell, "
        "column a to h then row 1 to 8 from the top: d3. Where you have no such move it is pass. Most discs at the "
        "end win.",
        sides=("Black, x", "White, o"),
    ),
    "backgammon": Notes(
        "Backgammon. The board shows 24 points with stacks of checkers; a digit is a stack too high to draw. From "
        "left to right x counts the lower half 13 to 24 and the upper half 12 to 1, o the upper half 13 to 24 and the"
        " lower half 12 to 1; both move down their own numbers and bear off from 6 to 1. An action moves with both "
        "dice: 24/23 13/9 moves a checker from 24 to 23 and one from 13 to 9, 13/9/8 one checker twice, * marks a "
        "hit, Bar/ enters from the bar, /Off bears off, Pass where nothing can move. The first to bear off all "
        "checkers wins.",
        shorten=lambda name: name.split(" - ")[-1],
        sides=("x", "o"),
    ),
    "hex": Notes(
        "Hex on {num_rows} rows by {num_cols} columns. In turn, players put a stone on an empty cell. x wins by an "
        "unbroken chain from the top row to the bottom row, o by one from the leftmost column to the rightmost. Each "
        "row is drawn half a cell to the right of the one above: a cell touches its neighbours left and right, the "
        "cells above and above right, below and below left. An action is the cell, column letter then row number from"
        " the top: b2.",
        sides=("x", "o"),
    ),
    "clobber": Notes(
        "Clobber. A move takes one of your pieces to a neighbouring cell (up, down, left or right) that holds a piece"
        " of the other player, which is removed. Who cannot move loses. An action is the two cells: a5b5.",
        sides=("o", "x"),
    ),
    "connect_four": Notes(
        "Connect Four. In turn, players drop a piece into one of {columns} columns; it falls to the lowest free cell."
        " {x_in_row} in a row (across, down or diagonally) win; a full board is a draw. An action is the number of "
        "the column, 0 at the left.",
        shorten=lambda name: name[1:],
        sides=("x", "o"),
    ),
    "breakthrough": Notes(
        "Breakthrough on {rows} rows by {columns} columns. b starts at the top and moves down, w starts at the bottom"
        " and moves up, one row at a time, straight or diagonally, onto a free cell; a diagonal move may capture. The"
        " first to reach the other side's home row, or to capture every piece, wins. An action is the two cells: "
        "a7b6.",
        shorten=lambda name: name.rstrip("*"),
        sides=("b", "w"),
    ),
    "dots_and_boxes": Notes(
        "Dots and Boxes, {num_rows} rows by {num_cols} columns of boxes. In turn, players draw a line between two "
        "dots. Who draws the fourth side of a box owns it and moves again. Most boxes win. An action is a line: "
        "(h,r,c) is the top side of the box in row r, column c, counted from 0 (r={num_rows} draws the bottom edge), "
        "(v,r,c) is its left side (c={num_cols} draws the right edge). The board shows 1 in boxes of player 0 and 2 "
        "in boxes of player 1.",
        shorten=lambda name: name[2:],
    ),
    "nim": Notes(
        "Nim. In turn, players take one or more objects from one pile. The text is the player to move, then the sizes"
        " of the piles. With is_misere={is_misere}: True means that who takes the last object loses, False that they "
        "win. An action is pile:2, take:1 with piles counted from 1.",
        shorten=lambda name: name.rstrip(";"),
    ),
    "pig": Notes(
        "Pig. In your turn, roll a die with {diceoutcomes} faces as often as you like: what you roll is added to the "
        "turn total, but a 1 ends the turn and loses the total. stop adds the total to your score and ends the turn. "
        "The first to reach {winscore} wins. Actions: roll, stop. Scores are listed by player number."
    ),
    "checkers": Notes(
        "Checkers on {rows} rows by {columns} columns. Men move one cell diagonally forward: o up the board, + down. "
        "A man that reaches the far row is crowned (8 is a crowned o, * a crowned +) and moves both ways. You capture"
        " by jumping over a neighbouring piece to the free cell behind it; a capture must be made, and goes on, jump "
        "by jump, while it can. Who cannot move loses; 40 moves without a capture are a draw. An action is the two "
        "cells: a3b4.",
        sides=("o", "+"),
    ),
    "chess": Notes(
        "Chess. The text is the position in FEN: ranks 8 to 1 separated by /, capitals for White, digits for empty "
        "cells, then who moves (w or b), castling rights, the en-passant cell, and two counters. An action is a move "
        "in standard algebraic notation: e4, Nf3, Bxc6, O-O, e8=Q, with + for check and # for mate.",
        sides=("Black", "White, moves first"),
    ),
    "go": Notes(
        "Go on {board_size}x{board_size}, area scoring, komi {komi} for White. Black is X, White O, + a free point. "
        "In turn, players put a stone on a free point or PASS. Stones without a free neighbouring point are captured;"
        " suicide and repeating a position are forbidden. Two passes end the game; more stones and surrounded points "
        "win. An action is a point, such as c3, or PASS.",
        shorten=lambda name: name[2:],
        sides=("Black, X", "White, O"),
    ),
    "y": Notes(
        "Y on a triangle with sides of {board_size} cells. In turn, players put a stone on a free cell (.). Who "
        "connects all three sides of the triangle with one chain of stones wins; a corner belongs to both of its "
        "sides. Each row is drawn half a cell to the right of the one above; a cell touches up to six others. "
        "Brackets mark the last stone. An action is the cell, column letter then row number: b2.",
        sides=("O", "@"),
    ),
    "2048": Notes(
        "2048. Every move slides all tiles as far as they go; two equal tiles that meet become one of twice the "
        "value, which you earn as reward. Then a new tile appears. A tile of {max_tile}, or a board without a move, "
        "ends the game. 0 is an empty cell. Actions: Up, Right, Down, Left."
    ),
    "blackjack": Notes(
        "Blackjack against a dealer, one deck. Cards are a suit (C D H S) and a rank (A 2 to 9, T J Q K); an ace "
        "counts 1 or 11, T J Q K 10. Hit takes a card: above 21 you lose. Stand ends your turn; the dealer then draws"
        " up to 17. The higher total wins (+1), the lower loses (-1), equal totals earn 0. ?? is the dealer's hidden "
        "card.",
        view="observation",
    ),
    # Its information state counts all tries, the other player's failed ones too, which no rule makes known.
    "dark_hex": Notes("", view="observation"),
}

TRANSFORMS = {
    "misere": "Every payoff is negated: what these rules call winning loses. ",
    "turn_based_simultaneous_game": "",
}


def innermost(game: Any) -> tuple[Any, str]:
    """The game inside the known transforms of ``game``, and what these change in its rules."""
    pyspiel, change = import_pyspiel(), ""
    while (name := game.get_type().short_name) in TRANSFORMS:
        inner = dict(game.get_parameters()["game"])
        with silenced():
            try:
                game = pyspiel.load_game(inner.pop("name"), inner)
            except pyspiel.SpielError:  # normal_form_extensive_game forgets its parameters
                break
        change += TRANSFORMS[name]
    return game, change


def notes_of(game: Any) -> Notes:
    """The notes of a loaded ``pyspiel.Game``, with its parameters filled in."""
    inner, change = innermost(game)
    kind = inner.get_type()
    notes = NOTES.get(kind.short_name, Notes(""))
    if not notes.rules:
        return replace(notes, rules=_plain_rules(game))
    parameters = {**kind.parameter_specification, **inner.get_parameters()}
    return replace(notes, rules=change + notes.rules.format(**parameters))


def _plain_rules(game: Any) -> str:
    kind, kinds = game.get_type(), import_pyspiel().GameType
    players = "1 player" if game.num_players() == 1 else f"{game.num_players()} players"
    hidden = "" if kind.information == kinds.Information.PERFECT_INFORMATION else " Some of it is hidden from you."
    chance = "" if kind.chance_mode == kinds.ChanceMode.DETERMINISTIC else " There is chance."
    low, high = game.min_utility(), game.max_utility()
    return (
        f"{kind.long_name}, a game of OpenSpiel for {players}: {str(game).strip()}.{hidden}{chance} "
        f"Your reward lies between {low:g} and {high:g}; the more the better. An action is one of its own strings."
    )


def largest_return(game: Any) -> float:
    """The largest return: OpenSpiel's ``max_utility``, except in 2048, where that counts the last tile only."""
    if game.get_type().short_name != "2048":
        return float(game.max_utility())
    # A tile of value 2**k made of twos has paid (k - 1) * 2**k; the 15 other cells hold at most half the last tile.
    last = game.get_parameters()["max_tile"]
    k = math.log2(last)
    return last * (k - 1) + 15 * (last / 2) * (k - 2)
