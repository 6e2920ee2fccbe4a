"""Earlier weights of a model. Only trained weights are copied, so with adapters a snapshot is small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Snapshot:
    """The trained weights of ``model`` at the time of the snapshot."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has these weights; not between a forward pass and its backward pass."""
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
    def update(self, decay: float = 0.0) -> None:
        """Moves towards the model's current weights: w <- decay w + (1 - decay) current."""
        for name, parameter in self.model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter.detach().to(self.weights[name].device), 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weights = {name: weight.to(self.weights[name].device) for name, weight in state.items()}
