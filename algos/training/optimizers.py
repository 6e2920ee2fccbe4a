"""Learning rates, annealed coefficients, and which parameters Muon takes."""

from __future__ import annotations

import math

from torch import nn

from algos.config.schema import OptimSection
from algos.model.forward import causal_lm


def learning_rate(optim: OptimSection, step: int, max_steps: int) -> float:
    """Linear warm-up to ``lr``, then constant, or linear or cosine down to ``final_lr`` at the last step."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = min((step - optim.warmup_steps) / max(max_steps - 1 - optim.warmup_steps, 1), 1.0)
    fall = {"constant": 0.0, "linear": done, "cosine": 0.5 - 0.5 * math.cos(math.pi * done)}[optim.schedule]
    return optim.lr + fall * (optim.final_lr - optim.lr) if fall else optim.lr


def annealed(start: float, end: float | None, step: int, max_steps: int) -> float:
    """A coefficient that falls linearly from ``start`` at step 0 to ``end`` at the last step; None: it stays."""
    return start if end is None else start + (end - start) * min(step / max(max_steps - 1, 1), 1.0)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices of the model's layers: not the embedding, nor the output layer."""
    layers = causal_lm(model).get_decoder().layers
    return [parameter for parameter in layers.parameters() if parameter.requires_grad and parameter.ndim == 2]
