"""Resamples what a player cannot know, for games in which OpenSpiel cannot do so."""

from __future__ import annotations

import random
from typing import Any

from llm_gym.games.openspiel import OpenSpiel
from llm_gym.games.openspiel.loading import import_pyspiel
from llm_gym.games.openspiel.rules import innermost

HIDDEN_DICE = {"liars_dice", "liars_dice_ir"}
CHANCE = -1


def can_redraw(game: OpenSpiel) -> bool:
    """True for liar's dice, and for games that hide nothing but the other players' simultaneous moves."""
    kind, hidden = innermost(game.spiel_game)[0].get_type(), import_pyspiel().GameType.Information
    return kind.short_name in HIDDEN_DICE or (
        game.spiel_game.get_type().short_name == "turn_based_simultaneous_game"
        and kind.information != hidden.IMPERFECT_INFORMATION
    )


def redraw(state: Any, player: int, rng: random.Random) -> Any:
    """A random state that ``player``, who is to move, cannot distinguish from ``state``; :func:`can_redraw` must hold.

    Dice are rolled again until the player's information state is the same. Moves that others made in the same round are
    replaced by random legal ones.
    """
    game = state.get_game()
    dice = innermost(game)[0].get_type().short_name in HIDDEN_DICE
    history = state.full_history()
    public = len(history)
    if not dice:
        turn = player  # within a round, players move in the order of their seats
        while public and 0 <= history[public - 1].player < turn:
            public -= 1
            turn = history[public].player
    real, drawn = game.new_initial_state(), game.new_initial_state()
    for number, move in enumerate(history):
        real.apply_action(move.action)
        if number >= public:
            drawn.apply_action(rng.choice(drawn.legal_actions()))
        elif dice and move.player == CHANCE:
            faces = drawn.legal_actions()
            seen = real.information_state_string(player)
            while (rolled := drawn.child(rng.choice(faces))).information_state_string(player) != seen:
                pass
            drawn = rolled
        else:
            drawn.apply_action(move.action)
    return drawn
