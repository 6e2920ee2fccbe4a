"""What the divergence and the entropy add to a loss: their sign, their weight, and how the weight falls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import micro_model, some_rows
from torch import Tensor

from algos import grpo, ppo, spiral
from algos.data.batching import Batch
from algos.maths.logprobs import Direction
from algos.model.forward import Policy, PolicyOutput
from algos.model.reference import ReferenceModel

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


class WithValues:
    """A policy whose critic says 0 everywhere."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, batch: Batch, reference: Any = None, direction: Direction = "reverse") -> PolicyOutput:
        output = self.policy(batch, reference, direction)
        return output._replace(values=torch.zeros_like(output.logprobs))


def parts() -> tuple[Batch, Any, ReferenceModel]:
    """A batch, a policy, and a reference that is another model."""
    rows = some_rows(5)
    for row in rows:
        row.values = row.value_targets = [0.0] * len(row.ids)
    return Batch.of(rows), Policy(micro_model(seed=0), 1.0), ReferenceModel(micro_model(seed=1), 1.0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("algorithm", ["grpo", "spiral", "ppo"])
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_loss_grows_with_the_divergence_from_the_reference(algorithm: str, direction: Direction) -> None:
    batch, policy, reference = parts()
    way = {"kl_direction": direction}

    def loss(weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        if algorithm == "grpo":
            return grpo.batch_loss(grpo.GrpoConfig.model_validate({"grpo": way}), batch, policy, reference, weight)
        if algorithm == "spiral":
            config = spiral.SpiralConfig.model_validate({"spiral": way})
            return spiral.batch_loss(config, batch, policy, reference, weight, 0.0)
        ppo_config = ppo.PpoConfig.model_validate({"ppo": {"kl_coef": 1.0, "kl_in": "loss"} | way})
        return ppo.batch_loss(ppo_config, batch, WithValues(policy), reference, weight)  # type: ignore[arg-type]

    (without, figures), (with_it, _) = loss(0.0), loss(0.3)
    divergence = figures["policy/kl_to_reference"]
    assert divergence.mean() > 0.1  # another model is far away
    torch.testing.assert_close(divergence, policy(batch, reference.hidden(batch), direction).kl, **EXACT)
    torch.testing.assert_close(with_it - without, 0.3 * divergence, **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("algorithm", ["spiral", "ppo"])
def test_the_loss_falls_with_the_entropy(algorithm: str) -> None:
    batch, policy, _ = parts()

    def loss(weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        if algorithm == "spiral":
            return spiral.batch_loss(spiral.SpiralConfig(), batch, policy, None, 0.0, weight)
        config = ppo.PpoConfig.model_validate({"ppo": {"entropy_coef": weight}})
        return ppo.batch_loss(config, batch, WithValues(policy), None, 0.0)  # type: ignore[arg-type]

    (without, figures), (with_it, _) = loss(0.0), loss(0.2)
    assert figures["policy/entropy"].min() > 0
    torch.testing.assert_close(without - with_it, 0.2 * figures["policy/entropy"], **EXACT)


@pytest.mark.parametrize(("module", "weights"), [(grpo, 1), (spiral, 2)])
def test_weights_fall_linearly_over_the_run(monkeypatch: pytest.MonkeyPatch, module: Any, weights: int) -> None:
    """The weights that a step's loss is given: of the divergence, and of the entropy where there is one."""
    given: list[tuple[float, ...]] = []
    monkeypatch.setattr(module, "batch_loss", lambda *arguments: given.append(arguments[-weights:]))
    trainer = SimpleNamespace(policy=None, reference=None, update=lambda rows, loss, *others, **options: loss(None))
    section = {"kl_coef": 0.4, "final_kl_coef": 0.1} | (
        {"entropy_coef": 0.2, "final_entropy_coef": 0.0} if weights > 1 else {}
    )
    name = module.__name__.removeprefix("algos.")
    schema = grpo.GrpoConfig if module is grpo else spiral.SpiralConfig
    config = schema.model_validate({"run": {"max_steps": 4}, name: section})
    for step in range(4):
        module.update(config, [], trainer, step)
    assert [of_step[0] for of_step in given] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    if weights > 1:
        assert [of_step[1] for of_step in given] == pytest.approx([0.2, 0.2 * 2 / 3, 0.2 / 3, 0.0])
