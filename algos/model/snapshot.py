"""A model's earlier self: only what is trained is copied, so with adapters it costs next to nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from algos.model.forward import Policy
from algos.rollout.batching import Batch
from algos.rollout.hf import HFEngine, Sample


class Snapshot:
    """The trained weights of ``model`` as they were when it was taken."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def worn(self) -> Iterator[None]:
        """Lets the model have these weights for a while. Not between a forward pass and its backward pass."""
        parameters = dict(self.model.named_parameters())
        present = {name: parameters[name].data for name in self.weights}
        try:
            for name, weight in self.weights.items():
                parameters[name].data = weight.to(parameters[name].device)
            yield
        finally:
            for name, weight in present.items():
                parameters[name].data = weight

    @torch.no_grad()
    def renew(self, decay: float = 0.0) -> None:
        """Moves to the model's present weights: w <- decay w + (1 - decay) present."""
        for name, parameter in self.model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter.detach().to(self.weights[name].device), 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weights = {name: weight.to(self.weights[name].device) for name, weight in state.items()}


class Magnet:
    """A reference that can be renewed: the policy wearing a :class:`Snapshot`."""

    def __init__(self, snapshot: Snapshot, temperature: float) -> None:
        self.snapshot, self.policy = snapshot, Policy(snapshot.model, temperature)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Log-probabilities and entropies of the action tokens, both ``[tokens]``, row by row."""
        with self.snapshot.worn():
            return self.policy(batch)

    def hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :meth:`algos.model.forward.Policy.hidden`."""
        with self.snapshot.worn():
            return self.policy.hidden(batch)


class PastSelves:
    """Engines that play as the model once did: the newest ``size`` of the snapshots taken."""

    def __init__(self, engine: HFEngine, size: int) -> None:
        self.engine, self.size = engine, size
        self.players: list[PastSelf] = []

    def take(self, version: int) -> None:
        """Adds the model as it is now."""
        self.players = [*self.players, PastSelf(self.engine, Snapshot(self.engine.model), version)][-self.size :]

    def state_dict(self) -> dict[str, Any]:
        return {"players": [(player.version, player.snapshot.state_dict()) for player in self.players]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.players = []
        for version, weights in state["players"]:
            self.take(version)
            self.players[-1].snapshot.load_state_dict(weights)


class PastSelf(HFEngine):
    """One of :class:`PastSelves`."""

    def __init__(self, engine: HFEngine, snapshot: Snapshot, version: int) -> None:
        super().__init__(engine.model, set(engine.stop_ids.tolist()), engine.max_new_tokens, engine.batch_size)
        self.snapshot, self.version = snapshot, version

    def sync(self, version: int) -> None:
        """It stays as it is."""

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """See :meth:`algos.rollout.hf.HFEngine.generate`."""
        with self.snapshot.worn():
            return super().generate(prompts, temperature, generator)
