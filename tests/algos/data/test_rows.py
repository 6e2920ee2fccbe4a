"""Turns become rows: merged where one extends another, apart where not, with the same gradient either way."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from micro import micro_model, plain_logprobs, some_ids

from algos.data.batching import Batch
from algos.data.episodes import Episode, Turn
from algos.data.rows import to_rows
from algos.model.forward import Policy


def turn(prompt: list[int], action: list[int], logprob: float = -1.0, advantages: Sequence[float] = ()) -> Turn:
    return Turn(prompt, action, [logprob] * len(action), advantages=list(advantages))


def test_a_turn_that_extends_the_last_one_joins_its_row() -> None:
    turns = [
        turn([1, 2], [3, 4], -0.5, [1.0, 1.0]),
        turn([1, 2, 3, 4, 5, 6], [7], -0.7, [2.0]),
        turn([1, 2, 3, 4, 5, 6, 7, 8], [9, 10], -1.0, [3.0, 4.0]),
    ]
    (row,) = to_rows(turns)
    assert row.prompt_ids == [1, 2]
    assert row.ids == [3, 4, 5, 6, 7, 8, 9, 10]
    assert row.action_mask == [True, True, False, False, True, False, True, True]
    assert row.old_logprobs == [-0.5, -0.5, 0.0, 0.0, -0.7, 0.0, -1.0, -1.0]
    assert row.advantages == [1.0, 1.0, 0.0, 0.0, 2.0, 0.0, 3.0, 4.0]
    assert row.action_tokens == 5


@pytest.mark.parametrize(
    "prompt",
    [
        [1, 2, 3],  # shorter: the past was rendered anew, and something dropped
        [1, 2, 3, 4],  # nothing new: the model would be asked to go on with its own reply
        [1, 2, 3, 5, 6],  # the reply's last token changed
        [2, 2, 3, 4, 6],  # the first token changed
        [8],
    ],
)
def test_a_turn_that_does_not_extend_starts_a_row_of_its_own(prompt: list[int]) -> None:
    rows = to_rows([turn([1, 2], [3, 4]), turn(prompt, [9])])
    assert [(row.prompt_ids, row.ids, row.action_mask) for row in rows] == [
        ([1, 2], [3, 4], [True, True]),
        (prompt, [9], [True]),
    ]


def test_a_row_can_grow_again_after_a_break() -> None:
    turns = [turn([1], [2]), turn([5], [6]), turn([5, 6, 7], [8])]
    rows = to_rows(turns)
    assert [(row.prompt_ids, row.ids) for row in rows] == [([1], [2]), ([5], [6, 7, 8])]


def test_making_rows_leaves_the_turns_as_they_were_sampled() -> None:
    turns = [turn([1, 2], [3, 4]), turn([1, 2, 3, 4, 5], [6])]
    to_rows(turns)
    assert [(t.prompt_ids, t.action_ids, t.logprobs) for t in turns] == [
        ([1, 2], [3, 4], [-1.0, -1.0]),
        ([1, 2, 3, 4, 5], [6], [-1.0]),
    ]


def test_no_turns_no_rows() -> None:
    assert to_rows([]) == []
    assert Episode("env", 0).total_reward == 0.0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("share_prompts", [True, False])
def test_a_merged_row_gives_the_gradient_of_its_turns_apart(share_prompts: bool) -> None:
    rng, model = random.Random(3), micro_model()
    conversations: list[list[Turn]] = []
    for _ in range(3):
        turns: list[Turn] = []
        for _ in range(4):
            past = turns[-1].prompt_ids + turns[-1].action_ids if turns else []
            turns.append(turn(past + some_ids(rng, 1, 5), some_ids(rng, 1, 4)))
            turns[-1].advantage = rng.gauss(0, 1)
        conversations.append(turns)
    merged = [row for turns in conversations for row in to_rows(turns)]
    apart = [row for turns in conversations for one in turns for row in to_rows([one])]
    assert (len(merged), len(apart)) == (3, 12)
    batch = Batch.of(merged)
    logprobs = Policy(model, 0.7, share_prompts)(batch).logprobs
    ours = torch.autograd.grad((logprobs * batch.at_actions(batch.advantages)).sum(), list(model.parameters()))
    loss = torch.zeros(())
    for row in apart:
        loss = loss + (plain_logprobs(model, row, 0.7) * torch.tensor(row.advantages)).sum()
    theirs = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
