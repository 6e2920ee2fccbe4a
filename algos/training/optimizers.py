"""The optimizer, its learning rate, and coefficients that change over a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from algos.config.schema import OptimSection
from algos.model.forward import causal_lm
from algos.training.muon import Muon


def learning_rate(optim: OptimSection, step: int, max_steps: int) -> float:
    """Linear warm-up to ``lr``, then constant, or linear or cosine to ``final_lr`` at the last step."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = min((step - optim.warmup_steps) / max(max_steps - 1 - optim.warmup_steps, 1), 1.0)
    fall = {"constant": 0.0, "linear": done, "cosine": 0.5 - 0.5 * math.cos(math.pi * done)}[optim.schedule]
    return optim.lr + fall * (optim.final_lr - optim.lr) if fall else optim.lr


def annealed(start: float, end: float | None, step: int, max_steps: int) -> float:
    """A coefficient that changes linearly from ``start`` at step 0 to ``end`` at the last step; None: it stays."""
    return start if end is None else start + (end - start) * min(step / max(max_steps - 1, 1), 1.0)


def make_optimizer(optim: OptimSection, policy: Any, critic_lr: float | None = None) -> torch.optim.Optimizer:
    """The optimizer of the policy's trained parameters; a group's ``scale`` is its learning rate / ``optim.lr``.

    Args:
        policy: A :class:`~algos.model.forward.Policy`; its ``critic``, if it has one, is a separate group.
        critic_lr: Peak learning rate of the critic; None: ``optim.lr``.
    """
    groups = [{"params": [p for p in policy.model.parameters() if p.requires_grad], "scale": 1.0}]
    if critic := getattr(policy, "critic", None):
        own = [p for p in critic.parameters() if p.requires_grad]
        groups.append({"params": own, "scale": (critic_lr or optim.lr) / optim.lr})
    settings: dict[str, Any] = {"lr": optim.lr, "betas": (0.9, 0.99), "weight_decay": optim.weight_decay}
    if optim.name == "muon":
        return Muon(groups, matrices(policy.model), **settings)
    return torch.optim.AdamW(groups, **settings)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices of the model's layers, without the embedding and the output layer."""
    layers = causal_lm(model).get_decoder().layers
    return [parameter for parameter in layers.parameters() if parameter.requires_grad and parameter.ndim == 2]
