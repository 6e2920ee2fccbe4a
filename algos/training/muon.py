"""Muon: orthogonalised momentum for matrices, AdamW for all other parameters.

Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Steps are scaled as in "Muon is scalable for LLM
training", arXiv 2502.16982, to the size of AdamW's, so that learning rate and decay have the same meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration, which brings singular values to between about 0.7 and 1.2."""
ITERATIONS = 5
MOMENTUM = 0.95
RMS = 0.2
"""The root mean square of AdamW's steps, in units of the learning rate."""


def orthogonal(matrix: Tensor) -> Tensor:
    """``matrix`` with singular values near 1, in the same precision; a zero matrix stays zero.

    ``torch.optim.Muon`` does this in bfloat16, which is slow on a CPU without bfloat16 arithmetic.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T


class Muon(torch.optim.AdamW):
    """AdamW, except for ``matrices``, ``[rows, columns]`` each: they have orthogonalised Nesterov momentum.

    Args:
        params: As for AdamW, the matrices included.
        settings: As for AdamW.
    """

    def __init__(self, params: Any, matrices: Iterable[Tensor], **settings: Any) -> None:
        super().__init__(params, **settings)
        self.matrices = {id(matrix) for matrix in matrices}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None and id(matrix) in self.matrices:
                    self._step(matrix, matrix.grad, float(group["lr"]), group["weight_decay"])
                    matrix.grad = None  # AdamW skips it
        super().step()
        return loss

    def _step(self, matrix: Tensor, grad: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(matrix)}  # AdamW expects a step
        state["step"] += 1
        state["momentum"].lerp_(grad, 1 - MOMENTUM)
        update = orthogonal(torch.lerp(grad, state["momentum"], MOMENTUM))
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(update, alpha=-lr * RMS * max(matrix.shape) ** 0.5)
