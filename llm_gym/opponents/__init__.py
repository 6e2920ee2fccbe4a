"""Scripted players for the other seats.

``opponent`` is a callable ``(observation, info) -> reply``, or a name, with settings in brackets where wanted:

========================================  ======================================================================
``random``, ``first``                     a random legal action; the first
``minimax``                               perfect play, in small games of two players without chance or secrets
``mcts``, ``mcts(100)``                   tree search, where nothing is hidden: ``simulations``, ``rollouts``, ``uct_c``
``ismcts(simulations=2000)``              tree search that never sees hidden cards, in OpenSpiel's games: the same
``nash``, ``nash(iterations=100)``        equilibrium play in Kuhn and Leduc poker
========================================  ======================================================================

A game can have players of its own besides (:attr:`llm_gym.TextGame.players`).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from typing import Any

from llm_gym.game import TextGame
from llm_gym.opponents.simple import OpponentFn, Player, PolicyPlayer

__all__ = ["PLAYERS", "OpponentFn", "Player", "make_player"]

PLAYERS: dict[str, str] = {
    "random": "simple:Random",
    "first": "simple:First",
    "minimax": "minimax:Minimax",
    "mcts": "search:MCTS",
    "ismcts": "search:ISMCTS",
    "nash": "nash:Nash",
}
"""Name of a scripted player -> the module in this folder and the class in it, imported when a player is made."""
_CALL = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def make_player(name: str, game: TextGame) -> Player:
    """The scripted player that ``name`` describes, such as ``"mcts(simulations=100)"``, for ``game``.

    Raises:
        ValueError: There is none of that name, it has no such settings, or it cannot play ``game``.
    """
    call = _CALL.fullmatch(name) if isinstance(name, str) else None
    kind = call[1] if call else ""
    if call and kind in game.players and call[2] is None:
        return PolicyPlayer(game.players[kind])
    if call is None or kind not in PLAYERS:
        named = ", ".join([*PLAYERS, *game.players])
        raise ValueError(f"opponent must be one of {named} or a callable (observation, info) -> reply, not {name!r}")
    module, _, class_name = PLAYERS[kind].partition(":")
    maker: Any = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    try:
        values, named_values = _read_settings(call[2] or "")
        inspect.signature(maker).bind(game, *values, **named_values)
    except (SyntaxError, TypeError, ValueError):
        settings = ", ".join(list(inspect.signature(maker).parameters)[1:]) or "none"
        raise ValueError(f"opponent {name!r} cannot be read; the settings of {kind}: {settings}") from None
    return maker(game, *values, **named_values)


def _read_settings(text: str) -> tuple[list[Any], dict[str, Any]]:
    """``"100, uct_c=2.0"`` -> ``([100], {"uct_c": 2.0})``; plain values only."""
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(text)
    values = [ast.literal_eval(value) for value in call.args]
    return values, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
