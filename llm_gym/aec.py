"""The same games with every seat open: ``llm_gym.aec("llmgym/TicTacToe-v0")`` is a PettingZoo environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled

from llm_gym.env import TextEnv

if TYPE_CHECKING:
    from llm_gym.aec_env import TextAECEnv


def aec(env_id: str, **settings: Any) -> TextAECEnv:
    """A PettingZoo ``AECEnv`` of the game behind a registered text environment, for self-play.

    Args:
        env_id: An id whose environment is a :class:`llm_gym.TextEnv`, such as ``"llmgym/KuhnPoker-v0"``.
        **settings: As for ``gymnasium.make``: ``action_format``, ``on_invalid``, ``show_legal``, ``random_opening``,
            ``render_mode`` and
            the game's own. ``opponent`` and ``seat`` have no meaning here.

    Raises:
        ValueError: The id is no :class:`llm_gym.TextEnv`, the game has one player only, or a setting is wrong.
        gymnasium.error.DependencyNotInstalled: PettingZoo is not installed.
    """
    try:
        from llm_gym.aec_env import TextAECEnv
    except ModuleNotFoundError as error:
        if error.name != "pettingzoo":
            raise
        raise DependencyNotInstalled('PettingZoo is not installed: pip install "llm-gym[pettingzoo]"') from error
    spec = gymnasium.spec(env_id)
    maker = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    if not (isinstance(maker, type) and issubclass(maker, TextEnv)):
        raise ValueError(f"aec needs the id of a text environment (llm_gym.TextEnv), not {env_id!r}")
    for name in ("opponent", "seat"):
        if name in settings:
            raise ValueError(f"aec has no {name}: every seat is open")
    kept = {name: value for name, value in spec.kwargs.items() if name not in ("opponent", "seat")}
    return TextAECEnv(**{**kept, **settings}, name=spec.name)
