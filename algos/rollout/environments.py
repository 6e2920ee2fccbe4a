"""Making the environments that episodes are played in."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium

import llm_gym
from algos.config.schema import EnvSection
from algos.data.tasks import EnvKey
from algos.errors import ConfigError
from llm_gym.arguments import explain
from llm_gym.sandbox import SandboxUnavailable


def make_env(env: EnvSection | EnvKey) -> gymnasium.Env[str, str]:
    """The Gymnasium environment of a section of the settings or a key, reset once to try it.

    Raises:
        ConfigError: There is no such id, it refuses a setting, an extra it needs is not installed, or it is no text.
    """
    settings = env.kwargs if isinstance(env, EnvKey) else env.settings
    try:
        made: gymnasium.Env[str, str] = gymnasium.make(env.id, **settings)
        observation: object = made.reset(seed=0)[0]
    except (gymnasium.error.Error, TypeError, ValueError, ImportError, SandboxUnavailable) as error:
        raise ConfigError(f"env: {explain(error, env.id)}") from None
    if not isinstance(observation, str):
        raise ConfigError(f"env.id: {env.id} shows {type(observation).__name__}, not text (str)")
    return made


def make_aec(env: EnvKey) -> Any:
    """The PettingZoo environment of an id of llm_gym, or of ``module:function``, without ``opponent`` and ``seat``.

    Raises:
        ConfigError: There is no such id, it has one player, a setting is wrong, or PettingZoo is not installed.
    """
    settings = {name: value for name, value in env.kwargs.items() if name not in ("opponent", "seat")}
    try:
        if ":" in env.id:
            module, _, name = env.id.partition(":")
            return getattr(importlib.import_module(module), name)(**settings)
        made = llm_gym.aec(env.id, **settings)
        made.reset(seed=0)
    except (gymnasium.error.Error, AttributeError, TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"env: {error}") from None
    return made
