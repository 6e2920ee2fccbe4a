"""Text-game environments for language-model agents behind the Gymnasium API.

Importing this package registers every ``llmgym/...`` id: ``gymnasium.make("llmgym/TicTacToe-v0")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from llm_gym.env import TextEnv
from llm_gym.game import IllegalAction, TextGame
from llm_gym.spaces import Unicode

if TYPE_CHECKING:
    from llm_gym.pettingzoo import TextAECEnv

__version__ = "0.1.0"
__all__ = ["GAMES", "IllegalAction", "TextEnv", "TextGame", "Unicode", "aec"]

_OPENSPIEL: dict[str, Any] = {"text_game": "llm_gym.games.openspiel:OpenSpiel"}

GAMES: dict[str, dict[str, Any]] = {
    "TicTacToe": {"text_game": "llm_gym.games.tic_tac_toe:TicTacToe"},
    "Negotiation": {"text_game": "llm_gym.games.negotiation:Negotiation", "opponent": "greedy"},
    "PasswordGame": {"text_game": "llm_gym.games.password:PasswordGame"},
    "CodeExecution": {"text_game": "llm_gym.games.code_execution:CodeExecution"},
    "PredictionGame": {"text_game": "llm_gym.games.prediction:PredictionGame", "opponent": "sampler"},
    "MBPP": {"text_game": "llm_gym.games.mbpp:MBPP"},
    "OpenSpiel": {**_OPENSPIEL, "game": "tic_tac_toe"},
    "2048": {**_OPENSPIEL, "game": "2048"},
    "Backgammon": {**_OPENSPIEL, "game": "backgammon", "show_legal": True},
    "Blackjack": {**_OPENSPIEL, "game": "blackjack"},
    "Breakthrough": {**_OPENSPIEL, "game": "breakthrough(rows=6,columns=6)"},
    "Checkers": {**_OPENSPIEL, "game": "checkers"},
    "Chess": {**_OPENSPIEL, "game": "chess"},
    "Clobber": {**_OPENSPIEL, "game": "clobber"},
    "ConnectFour": {**_OPENSPIEL, "game": "connect_four"},
    "DotsAndBoxes": {**_OPENSPIEL, "game": "dots_and_boxes(num_rows=3,num_cols=3)"},
    "GinRummy": {**_OPENSPIEL, "game": "gin_rummy", "show_legal": True},
    "Go": {**_OPENSPIEL, "game": "go(board_size=7)"},
    "Goofspiel": {**_OPENSPIEL, "game": "goofspiel(num_cards=5)"},
    "Hex": {**_OPENSPIEL, "game": "hex(board_size=5)"},
    "KuhnPoker": {**_OPENSPIEL, "game": "kuhn_poker"},
    "LeducPoker": {**_OPENSPIEL, "game": "leduc_poker"},
    "LiarsDice": {**_OPENSPIEL, "game": "liars_dice"},
    "Nim": {**_OPENSPIEL, "game": "nim"},
    "Othello": {**_OPENSPIEL, "game": "othello"},
    "Pig": {**_OPENSPIEL, "game": "pig(winscore=50)"},
    "Y": {**_OPENSPIEL, "game": "y(board_size=5)"},
}
"""Name of an id (``llmgym/<name>-v0``) -> the settings of its :class:`TextEnv`. A game's module loads when made."""

for _name, _settings in GAMES.items():
    gymnasium.register(
        id=f"llmgym/{_name}-v0",
        entry_point="llm_gym.env:TextEnv",
        kwargs=_settings,
        disable_env_checker=True,  # it would check the first step of every environment; check_text_env does so once
    )


def aec(env_id: str, **settings: Any) -> TextAECEnv:
    """A PettingZoo ``AECEnv`` of the game behind a registered text environment, with every seat open, for self-play.

    Args:
        env_id: An id whose environment is a :class:`TextEnv`, such as ``"llmgym/KuhnPoker-v0"``.
        **settings: As for ``gymnasium.make``: ``action_format``, ``on_invalid``, ``show_legal``, ``random_opening``,
            ``render_mode`` and the game's own. ``opponent`` and ``seat`` have no meaning here.

    Raises:
        ValueError: The id is no :class:`TextEnv`, the game has one player only, or a setting is wrong.
        gymnasium.error.DependencyNotInstalled: PettingZoo is not installed.
    """
    from llm_gym.pettingzoo import make_aec

    return make_aec(env_id, **settings)
