"""Muon against singular values, against PyTorch's, and against AdamW where it must be that."""

import copy

import pytest
import torch
from micro import micro_model
from torch import Tensor, nn

from algos.training.muon import Muon, orthogonal
from algos.training.optimizers import matrices


def filled(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (1, 5)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, int], size: float) -> None:
    matrix = size * filled(*shape)
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(values.clamp(min=0.05 * float(values.max()))) @ vt  # five iterations lift no smaller ones
    found = u.T @ orthogonal(matrix) @ vt.T
    assert torch.diag(found).min() > 0.65
    assert torch.diag(found).max() < 1.25
    assert (found - torch.diag(torch.diag(found))).abs().max() < 1e-3


def test_a_matrix_without_gradient_stays() -> None:
    assert not orthogonal(torch.zeros(3, 4)).any()


def steps(optimizers: list[torch.optim.Optimizer], model: nn.Module, n: int = 4) -> None:
    for number in range(n):
        for seed, parameter in enumerate(model.parameters()):
            parameter.grad = filled(*parameter.shape, seed=10 * number + seed)
        for optimizer in optimizers:
            optimizer.step()


def test_matrices_take_the_steps_of_pytorchs_muon_and_all_else_those_of_adamw() -> None:
    ours = nn.Sequential(nn.Linear(24, 48), nn.Linear(48, 8))
    theirs = copy.deepcopy(ours)
    start = copy.deepcopy(ours)
    settings = {"lr": 0.02, "weight_decay": 0.1}
    matrices = [parameter for parameter in ours.parameters() if parameter.ndim == 2]
    steps([Muon(ours.parameters(), matrices, betas=(0.9, 0.99), **settings)], ours)
    wide = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    rest = [parameter for parameter in theirs.parameters() if parameter.ndim != 2]
    muon = torch.optim.Muon(wide, adjust_lr_fn="match_rms_adamw", **settings)
    steps([muon, torch.optim.AdamW(rest, betas=(0.9, 0.99), **settings)], theirs)  # type: ignore[arg-type]
    for own, other, before in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        if own.ndim == 2:  # theirs is rounded to bfloat16
            assert (own - other).norm() < 0.03 * (own - before).norm()
        else:
            assert torch.equal(own, other)
        assert not torch.equal(own, before)


def test_a_loaded_state_goes_on_as_if_nothing_had_happened() -> None:
    whole = nn.Linear(6, 5)
    halves = copy.deepcopy(whole)
    first = Muon(halves.parameters(), [halves.weight], lr=0.1)
    steps([first], halves, 2)
    second = Muon(halves.parameters(), [halves.weight], lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps([second], halves, 2)
    uninterrupted = Muon(whole.parameters(), [whole.weight], lr=0.1)
    steps([uninterrupted], whole, 2)
    steps([uninterrupted], whole, 2)
    assert torch.equal(whole.weight, halves.weight)
    assert torch.equal(whole.bias, halves.bias)


def test_all_matrices_of_the_layers_are_made_orthogonal_and_the_embedding_is_not() -> None:
    model = micro_model()
    chosen = {id(matrix) for matrix in matrices(model)}
    names = {name.split(".")[-2] for name, parameter in model.named_parameters() if id(parameter) in chosen}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
