"""Log-probabilities of tokens against torch.log_softmax, and what they hold in memory."""

import pytest
import torch
from torch import Tensor, nn

from algos.maths.logprobs import Direction, token_logprobs

TOKENS, WIDTH, VOCABULARY = 50, 8, 23


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(VOCABULARY, WIDTH, generator=generator))
    return hidden, targets, head.to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_agrees_with_log_softmax_at_the_temperature(temperature: float) -> None:
    hidden, targets, head = inputs()
    logprobs, entropy, _ = token_logprobs(hidden, targets, head, temperature)
    distribution = torch.distributions.Categorical(logits=head(hidden) / temperature)
    torch.testing.assert_close(logprobs, distribution.log_prob(targets), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, distribution.entropy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 25, 49, 50])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    results = []
    for size in (chunk, 1000):
        hidden, targets, head = inputs()
        logprobs, entropy, _ = token_logprobs(hidden, targets, head, 0.7, chunk=size)
        (logprobs.sin() + 0.3 * entropy).sum().backward()
        results.append((logprobs, entropy, hidden.grad, head.weight.grad))
    for chunked, whole in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [8, 1000])
def test_logits_of_one_chunk_at_a_time_are_all_that_is_ever_made_or_kept(chunk: int) -> None:
    hidden, targets, head = inputs(torch.float32)
    made: list[int] = []
    kept: list[torch.Size] = []

    def counted(h: Tensor) -> Tensor:
        made.append(len(h))
        return head(h)

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logprobs, *_ = token_logprobs(hidden, targets, counted, 1.0, chunk=chunk)
    if chunk > TOKENS:  # without chunks the backward pass keeps them all: the hook above would have seen it
        assert made == [TOKENS]
        assert torch.Size([TOKENS, VOCABULARY]) in kept
        return
    assert made == [8] * 6 + [2]
    assert not [shape for shape in kept if shape[-1:] == (VOCABULARY,)], "logits are kept for the backward pass"
    logprobs.sum().backward()
    assert sorted(made[7:]) == [2] + [8] * 6, "each chunk is computed once more, alone"


def test_half_precision_logits_are_normalised_in_float32() -> None:
    hidden, targets, head = inputs(torch.bfloat16)
    logprobs, entropy, _ = token_logprobs(hidden, targets, head, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    exact = torch.log_softmax(head(hidden).float(), -1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_divergence_from_a_reference_is_exact_in_either_direction(direction: Direction, chunk: int) -> None:
    hidden, targets, head = inputs()
    generator = torch.Generator().manual_seed(1)
    other = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    *_, found = token_logprobs(hidden, targets, head, 0.7, (other, weight), chunk, direction)
    policy = torch.distributions.Categorical(logits=head(hidden) / 0.7)
    reference = torch.distributions.Categorical(logits=other @ weight.T / 0.7)
    pair = (policy, reference) if direction == "reverse" else (reference, policy)
    expected = torch.distributions.kl_divergence(*pair)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(value.sum(), hidden, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)
