"""Earlier versions of the policy as opponents in self-play."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from algos.engines.base import Sample
from algos.engines.hf import HFEngine
from algos.model.snapshot import Snapshot


class OpponentPool:
    """Engines that play as the model once did: the newest ``size`` of the snapshots taken."""

    def __init__(self, engine: HFEngine, size: int) -> None:
        self.engine, self.size = engine, size
        self.players: list[PastPolicy] = []

    def take(self, version: int) -> None:
        """Adds the model as it is now."""
        self.players = [*self.players, PastPolicy(self.engine, Snapshot(self.engine.model), version)][-self.size :]

    def state_dict(self) -> dict[str, Any]:
        return {"players": [(player.version, player.snapshot.state_dict()) for player in self.players]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.players = []
        for version, weights in state["players"]:
            self.take(version)
            self.players[-1].snapshot.load_state_dict(weights)


class PastPolicy(HFEngine):
    """One of :class:`OpponentPool`."""

    def __init__(self, engine: HFEngine, snapshot: Snapshot, version: int) -> None:
        super().__init__(engine.model, set(engine.stop_ids.tolist()), engine.max_new_tokens, engine.batch_size)
        self.snapshot, self.version = snapshot, version

    def sync(self, version: int) -> None:
        """It stays as it is."""

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """See :meth:`algos.engines.hf.HFEngine.generate`."""
        with self.snapshot.applied():
            return super().generate(prompts, temperature, generator)
