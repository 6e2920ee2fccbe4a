"""The start of an episode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algos.config.schema import EnvSection
from algos.errors import ConfigError


@dataclass(frozen=True)
class EnvKey:
    """An environment id with its settings: hashable, comparable, and plain text for checkpoints.

    Attributes:
        id: A registered Gymnasium id.
        settings: The keyword arguments of ``gymnasium.make``, as JSON with sorted keys.
    """

    id: str
    settings: str = "{}"

    @staticmethod
    def of(env: EnvSection) -> EnvKey:
        """The environment of a section of the settings.

        Raises:
            ConfigError: JSON cannot represent a setting exactly (a date, a callable, a NaN).
        """
        for name, value in env.settings.items():
            try:
                same = json.loads(json.dumps(value)) == value
            except (TypeError, ValueError):
                same = False
            if not same:
                raise ConfigError(
                    f"{env.id}: {name} must be made of text, numbers, true, false, null, lists and mappings "
                    f"with text as keys (got {value!r})"
                )
        return EnvKey(env.id, json.dumps(env.settings, sort_keys=True))

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of ``gymnasium.make``."""
        return dict(json.loads(self.settings))


@dataclass(frozen=True)
class Start:
    """An environment with its settings, and the seed it is reset with."""

    env: EnvKey
    seed: int


def pick(weights: Sequence[float], at: float) -> int:
    """An index with probability proportional to its weight, given ``at`` uniform in [0, 1)."""
    ends = np.cumsum(weights)
    return min(int(np.searchsorted(ends, at * ends[-1], side="right")), len(weights) - 1)
