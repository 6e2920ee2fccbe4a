"""What every engine offers: sampled replies of the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from algos.errors import ConfigError


class EngineError(ConfigError):
    """The engine cannot go on; the message is one line that says why."""


class Engine(Protocol):
    """Whatever samples replies from the trained model.

    Attributes:
        version: Number of optimizer steps that the weights it samples from have had.
        model: The trained model.
        max_new_tokens: A reply is cut after so many.
    """

    version: int
    model: Any
    max_new_tokens: int

    def sync(self, version: int) -> None:
        """Takes over the trained weights, which have had ``version`` optimizer steps. Every process calls it."""
        ...

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """Samples one reply a prompt; see :meth:`algos.engines.hf.HFEngine.generate`."""
        ...


@dataclass
class Sample:
    """One sampled reply: its token ids (a sampled end-of-turn token included) and their log-probabilities."""

    ids: list[int]
    logprobs: list[float]
    stop_reason: str
