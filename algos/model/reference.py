"""References: the models that the policy is kept near by a KL divergence."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from algos.data.batching import Batch
from algos.model.forward import Policy, PolicyOutput
from algos.model.load import load_model
from algos.model.snapshot import Snapshot


class ReferenceModel(nn.Module):
    """The starting model, with the output of :class:`~algos.model.forward.Policy`, no gradient, in eval mode.

    With adapters it is the trained model with its adapters switched off: exactly the base, without a second copy.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.policy = Policy(model, temperature)

    @staticmethod
    def of(model: Any, temperature: float, base: str | Path | None = None) -> ReferenceModel:
        """The reference of a run that trains ``model``.

        Args:
            base: Path of the starting model of a resumed run; None: ``model`` is it. Not used with adapters.
        """
        if hasattr(model, "disable_adapter"):
            return ReferenceModel(model, temperature)
        frozen = copy.deepcopy(model) if base is None else load_model(base, trainable=False)[0]
        return ReferenceModel(frozen.requires_grad_(False), temperature)

    @torch.no_grad()
    def forward(self, batch: Batch) -> PolicyOutput:
        """The reference's output for the batch's action tokens, row by row."""
        with self._alone():
            return self.policy(batch)

    def hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :meth:`algos.model.forward.Policy.hidden`."""
        with self._alone():
            return self.policy.hidden(batch)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Eval mode, and without adapters."""
        model: Any = self.policy.model
        training = model.training
        model.eval()
        with model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext():
            yield
        model.train(training)


class Magnet:
    """A reference that can be updated: the policy's model with the weights of a :class:`Snapshot`."""

    def __init__(self, snapshot: Snapshot, temperature: float) -> None:
        self.snapshot, self.policy = snapshot, Policy(snapshot.model, temperature)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> PolicyOutput:
        """The magnet's output for the batch's action tokens, row by row."""
        with self.snapshot.applied():
            return self.policy(batch)

    def hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :meth:`algos.model.forward.Policy.hidden`."""
        with self.snapshot.applied():
            return self.policy.hidden(batch)


class Reference(Protocol):
    """A :class:`ReferenceModel` or a :class:`Magnet`."""

    def __call__(self, batch: Batch) -> PolicyOutput: ...

    def hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]: ...
