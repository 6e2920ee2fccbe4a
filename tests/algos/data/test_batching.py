"""Rows as tensors: masks come from lengths, and every token keeps its own weight."""

from __future__ import annotations

from micro import some_rows

from algos.data.batching import Batch, Prompts, alike, micro_batches
from algos.data.rows import Row


def prompts_of(parts: Prompts) -> list[list[int]]:
    rests = [parts.rests[i][parts.rest_mask[i]].tolist() for i in parts.index.tolist()]
    return [parts.prefix.tolist() + rest for rest in rests]


def test_prompts_are_split_into_a_common_prefix_and_distinct_rests() -> None:
    prompts = [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [1, 2, 6, 7, 8]]
    parts = Prompts.of(prompts)
    assert parts.prefix.tolist() == [1, 2]
    assert parts.rests.shape[0] == 3
    assert prompts_of(parts) == prompts


def test_every_prompt_keeps_a_token_of_its_own_to_read_the_next_one_from() -> None:
    parts = Prompts.of([[1, 2, 3], [1, 2, 3, 4]])
    assert (parts.prefix.tolist(), parts.rest_mask.sum(1).tolist()) == ([1, 2], [1, 2])
    single = Prompts.of([[9]])
    assert (single.prefix.tolist(), single.rests.tolist()) == ([], [[9]])


def test_a_sampled_token_that_equals_padding_is_trained() -> None:
    """Trap: end-of-text is often the padding token too; a mask by value would never train the end."""
    rows = [Row([4], [7, 0], [True, True], [-1.0, -2.0], [1.0, 1.0]), Row([4], [0], [True], [-3.0], [1.0])]
    batch = Batch.of(rows)
    assert batch.action_mask.tolist() == [[True, True], [True, False]]
    assert batch.at_actions(batch.ids).tolist() == [7, 0, 0]
    assert batch.at_actions(batch.old_logprobs).tolist() == [-1.0, -2.0, -3.0]


def test_each_action_token_carries_the_weight_of_its_row() -> None:
    rows = some_rows(3)
    for number, row in enumerate(rows):
        row.weight = number + 0.5
    weights = Batch.of(rows).action_weights().tolist()
    assert weights == [row.weight for row in rows for _ in range(row.action_tokens)]


def test_prompts_of_one_game_are_kept_together() -> None:
    """Mixed games begin differently: in one batch they would share nothing, and every prompt would be run whole."""
    rules = [[game] * 30 for game in (1, 2, 3)]
    prompts = [rules[i % 3] + [40 + i] for i in range(60) if i % 3 != 2 or i < 9]
    groups = alike(prompts, 256)
    assert [sorted({prompts[i][0] for i in group}) for group in groups] == [[1], [2], [3]]
    assert sorted(i for group in groups for i in group) == list(range(len(prompts)))
    assert alike([[i, i] for i in range(40)], 256) == [list(range(40))]  # nothing in common: all at a time
    assert alike([], 256) == []
    rows = [Row(prompt, [5], [True], [-1.0], [1.0]) for prompt in prompts]
    assert [len(batch.prompts.prefix) for _, batch in micro_batches(rows, 256)] == [30, 30, 30]


def test_micro_batches_hold_every_row_once_whatever_their_size() -> None:
    rows = some_rows(7)
    wanted = sorted(tuple(row.prompt_ids + row.ids) for row in rows)
    for size in (1, 3, 7, 100):
        batches = [batch for _, batch in micro_batches(rows, size)]
        assert [len(batch.ids) for batch in batches] == [min(size, 7 - at) for at in range(0, 7, size)]
        found = []
        for batch in batches:
            for i, prompt in enumerate(prompts_of(batch.prompts)):
                found.append(tuple(prompt + batch.ids[i][batch.mask[i]].tolist()))
        assert sorted(found) == wanted
