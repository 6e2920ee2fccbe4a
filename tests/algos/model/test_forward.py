"""Shared prompts, padding and merging change what is computed, never the result: float64, against a plain forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from micro import VOCABULARY, micro_model, plain_logprobs, some_rows
from torch import nn

from algos.data.batching import Batch
from algos.data.rows import Row
from algos.model.forward import Policy, causal_lm

pytestmark = pytest.mark.usefixtures("float64")
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def one_row() -> list[Row]:
    return some_rows(1)


def one_token() -> list[Row]:
    return [Row([5], [7], [True], [-1.0], [1.0])]


def one_prompt() -> list[Row]:
    """A group: every episode from the same start."""
    return [Row([3, 1, 4, 1, 5], row.ids, row.action_mask, row.old_logprobs, row.advantages) for row in some_rows(4)]


def prompt_inside_another() -> list[Row]:
    rows = some_rows(2)
    rows[1].prompt_ids = [*rows[0].prompt_ids, 9, 9]
    return rows


def no_common_prefix() -> list[Row]:
    return some_rows(5, common_prefix=False)


CASES = [some_rows, one_row, one_token, one_prompt, prompt_inside_another, no_common_prefix]


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("share_prompts", [True, False], ids=["shared", "whole"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_logprobs_and_gradient_are_those_of_a_plain_forward_of_each_row(case, share_prompts: bool) -> None:  # type: ignore[no-untyped-def]
    rows, model, temperature = case(), micro_model(), 0.7
    plain = torch.cat([plain_logprobs(model, row, temperature) for row in rows])
    batch = Batch.of(rows)
    logprobs = Policy(model, temperature, share_prompts)(batch).logprobs
    torch.testing.assert_close(logprobs, plain, **EXACT)
    slopes = batch.at_actions(batch.advantages)
    for ours, theirs in zip(
        gradients(model, (logprobs * slopes).sum()), gradients(model, (plain * slopes).sum()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_a_prompt_that_rows_share_is_run_once_but_for_its_last_token() -> None:
    model, rows = micro_model(), one_prompt()
    seen: list[int] = []
    model.get_decoder().embed_tokens.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    Policy(model, 1.0)(Batch.of(rows))
    longest = max(len(row.ids) for row in rows)
    assert sum(seen) == len(rows[0].prompt_ids) - 1 + len(rows) * longest


def test_prompts_of_any_token_are_told_from_padding_by_length() -> None:
    rows = [Row([0, 0, 0, 2], [0, 0], [True, True], [-1.0] * 2, [1.0] * 2), Row([0, 2], [0], [True], [-1.0], [1.0])]
    model = micro_model()
    plain = torch.cat([plain_logprobs(model, row, 1.0) for row in rows])
    torch.testing.assert_close(Policy(model, 1.0)(Batch.of(rows))[0], plain, **EXACT)


@pytest.mark.parametrize("starts", [[2], [2, 3], [2, 3, 2]])
def test_prompts_may_have_one_token(starts: list[int]) -> None:
    rows = [Row([start], [1, 2], [True] * 2, [-1.0] * 2, [1.0] * 2) for start in starts]
    model = micro_model()
    plain = torch.cat([plain_logprobs(model, row, 1.0) for row in rows])
    torch.testing.assert_close(Policy(model, 1.0)(Batch.of(rows))[0], plain, **EXACT)


def test_adapters_of_peft_take_part() -> None:
    peft = pytest.importorskip("peft")
    model, rows = micro_model(), some_rows(3)
    before = Policy(model, 1.0)(Batch.of(rows))[0].detach()
    lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    lora.double()
    assert causal_lm(lora).config.vocab_size == VOCABULARY
    adapted = Policy(lora, 1.0)(Batch.of(rows))[0]
    torch.testing.assert_close(adapted, torch.cat([plain_logprobs(lora, row, 1.0) for row in rows]), **EXACT)
    assert (adapted - before).abs().max() > 1e-3
