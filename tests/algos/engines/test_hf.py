"""The sampler: it reports what the trainer computes, and samples what it reports."""

from __future__ import annotations

import random

import pytest
import torch
from micro import VOCABULARY, micro_model, some_ids

from algos.data.batching import Batch
from algos.data.rows import Row
from algos.engines.base import Sample
from algos.engines.hf import HFEngine
from algos.model.forward import Policy

STOP = {3, 17, 29, 40, 55}
TOKENS = 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(n: int = 24) -> list[list[int]]:
    """Unequal lengths, some equal prompts, a common beginning."""
    rng = random.Random(0)
    distinct = [[1, 2, 4, *some_ids(rng, 1, 12)] for _ in range(n // 2)]
    return distinct + [distinct[rng.randrange(len(distinct))] for _ in range(n - len(distinct))]


def engine(dtype: torch.dtype = torch.float32, stop: set[int] = STOP, tokens: int = TOKENS) -> HFEngine:
    return HFEngine(micro_model(dtype=dtype), stop, tokens)


def rows(samples: list[Sample], asked: list[list[int]]) -> list[Row]:
    return [
        Row(prompt, s.ids, [True] * len(s.ids), s.logprobs, [1.0] * len(s.ids))
        for prompt, s in zip(asked, samples, strict=True)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_reported_logprobs_are_those_of_the_trainer(
    temperature: float, dtype: torch.dtype, tolerance: float, request: pytest.FixtureRequest
) -> None:
    if dtype == torch.float64:
        request.getfixturevalue("float64")
    sampler, asked = engine(dtype), prompts()
    samples = sampler.generate(asked, temperature, seeded())
    assert len({len(s.ids) for s in samples}) > 3, "replies of several lengths must have been tried"
    batch = Batch.of(rows(samples, asked))
    logprobs = Policy(sampler.model, temperature)(batch).logprobs
    old = batch.at_actions(batch.old_logprobs)
    torch.testing.assert_close(logprobs, old, rtol=0, atol=tolerance)
    torch.testing.assert_close((logprobs - old).exp(), torch.ones_like(old), rtol=0, atol=1e-5)  # at step 0


def test_company_does_not_change_a_greedy_reply() -> None:
    """Padding, shared prompts and the removal of finished rows are invisible."""
    sampler, asked = engine(torch.float64), prompts()
    together = sampler.generate(asked, 0.0, seeded())
    alone = [sampler.generate([prompt], 0.0, seeded())[0] for prompt in asked]
    assert [s.ids for s in together] == [s.ids for s in alone]
    assert [s.stop_reason for s in together] == [s.stop_reason for s in alone]
    assert len({len(s.ids) for s in together}) > 2, "rows must have finished at several times"
    sampler.batch_size = 5
    assert [s.ids for s in sampler.generate(asked, 0.0, seeded())] == [s.ids for s in together]


def test_greedy_replies_are_those_of_an_ordinary_forward() -> None:
    sampler = engine(torch.float64)
    for prompt in prompts(6):
        ids = list(prompt)
        while len(ids) < len(prompt) + TOKENS and not (len(ids) > len(prompt) and ids[-1] in STOP):
            ids.append(int(sampler.model(torch.tensor([ids])).logits[0, -1].argmax()))
        (sample,) = sampler.generate([prompt], 0.0, seeded())
        assert prompt + sample.ids == ids


def test_a_reply_ends_at_a_stop_token_or_at_the_limit() -> None:
    samples = engine().generate(prompts(200), 1.0, seeded())
    assert {s.stop_reason for s in samples} == {"stop", "length"}
    for sample in samples:
        assert len(sample.ids) == len(sample.logprobs) <= TOKENS
        assert not STOP & set(sample.ids[:-1])
        assert (sample.stop_reason == "stop") == (sample.ids[-1] in STOP)
        assert sample.stop_reason == "stop" or len(sample.ids) == TOKENS


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_samples_follow_the_softmax_over_the_whole_vocabulary(temperature: float) -> None:
    """Full support: no top-p, no top-k. Chi-square with 8 degrees of freedom exceeds 31.8 once in 10,000 times."""
    model, n = micro_model(vocabulary=9), 5000
    samples = HFEngine(model, set(), 1, batch_size=n).generate([[1, 2]] * n, temperature, seeded(2))
    expected = n * torch.softmax(model(torch.tensor([[1, 2]])).logits[0, -1] / temperature, -1).detach()
    counts = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=9)
    assert ((counts - expected) ** 2 / expected).sum().item() < 31.8
    assert expected.max() > 2 * expected.min()


def test_later_tokens_follow_their_distribution_too() -> None:
    """Pairs of tokens, the second one from the cache. Chi-square with 24 degrees of freedom: 56.0 at 1 in 5,000."""
    model, n = micro_model(vocabulary=5), 5000
    samples = HFEngine(model, {0}, 2).generate([[1, 2]] * n, 1.0, seeded(3))
    log_p = torch.log_softmax(model(torch.tensor([[1, 2]])).logits[0, -1], -1)
    expected: dict[tuple[int, ...], float] = {(0,): log_p[0].exp().item() * n}
    for a in range(1, 5):
        after = torch.log_softmax(model(torch.tensor([[1, 2, a]])).logits[0, -1], -1)
        expected |= {(a, b): (log_p[a] + after[b]).exp().item() * n for b in range(5)}
    counts = {pair: sum(tuple(s.ids) == pair for s in samples) for pair in expected}
    assert sum(counts.values()) == n
    assert sum((counts[p] - expected[p]) ** 2 / expected[p] for p in expected) < 56.0


def test_the_generator_is_the_only_randomness() -> None:
    sampler, asked = engine(), prompts()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sampler.generate(asked, 1.0, seeded(7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert [s.ids for s in sampler.generate(asked, 1.0, seeded(7))] == [s.ids for s in first]
    assert [s.ids for s in sampler.generate(asked, 1.0, seeded(8))] != [s.ids for s in first]


def test_the_model_is_left_in_the_mode_it_was_in() -> None:
    sampler = engine()
    for training in (True, False):
        sampler.model.train(training)
        samples = sampler.generate(prompts(2), 1.0, seeded())
        assert sampler.model.training is training
        assert all(0 <= token < VOCABULARY for sample in samples for token in sample.ids)


def test_no_prompts_no_replies() -> None:
    assert engine().generate([], 1.0, seeded()) == []
