"""Text-game environments for language-model agents behind the Gymnasium API.

Importing this package registers every ``llmgym/...`` id: ``gymnasium.make("llmgym/TicTacToe-v0")``.
"""

from typing import Any

import gymnasium

from llm_gym.env import TextEnv
from llm_gym.game import IllegalAction, TextGame
from llm_gym.spaces import Unicode

__version__ = "0.1.0"
__all__ = ["GAMES", "IllegalAction", "TextEnv", "TextGame", "Unicode"]

GAMES: dict[str, dict[str, Any]] = {
    "TicTacToe": {"text_game": "llm_gym.games.tic_tac_toe:TicTacToe"},
}
"""Name of an id (``llmgym/<name>-v0``) -> the settings of its :class:`TextEnv`. A game's module loads when made."""

for _name, _settings in GAMES.items():
    gymnasium.register(
        id=f"llmgym/{_name}-v0",
        entry_point="llm_gym.env:TextEnv",
        kwargs=_settings,
        disable_env_checker=True,  # it would check the first step of every environment; check_text_env does so once
    )
