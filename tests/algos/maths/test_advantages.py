"""Group-relative advantages against numbers worked out by hand."""

import math

import pytest
import torch

from algos.maths.advantages import group_relative, has_signal, same_state

# Means 2 and 0; the sample's deviations sqrt((1 + 0 + 0 + 1) / 3) and sqrt((4 + 4 + 0 + 0) / 3).
RETURNS = torch.tensor([[1.0, 2.0, 2.0, 3.0], [2.0, -2.0, 0.0, 0.0]], dtype=torch.float64)


def test_without_normalisation_the_mean_of_the_group_is_taken_off() -> None:
    expected = torch.tensor([[-1.0, 0.0, 0.0, 1.0], [2.0, -2.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(group_relative(RETURNS, "none"), expected, rtol=0, atol=0)


def test_std_divides_by_the_deviation_of_the_sample_not_of_the_population() -> None:
    narrow, wide = math.sqrt(2 / 3), math.sqrt(8 / 3)
    expected = torch.tensor([[-1 / narrow, 0, 0, 1 / narrow], [2 / wide, -2 / wide, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(group_relative(RETURNS, "std", eps=0.0), expected, rtol=1e-12, atol=0)


def test_eps_is_added_to_the_deviation() -> None:
    two = torch.tensor([[0.0, 2.0]], dtype=torch.float64)  # deviation sqrt(2)
    assert group_relative(two, "std", eps=0.5)[0, 1].item() == pytest.approx(1 / (math.sqrt(2) + 0.5), rel=1e-12)


@pytest.mark.parametrize("normalise", ["std", "none"])
@pytest.mark.parametrize("value", [0.1, -1.5, 1e8])
def test_a_group_of_equal_returns_gets_exactly_zero(value: float, normalise: str) -> None:
    # 0.1 seven times has a mean that is not 0.1 in float32; divided by eps that would be an advantage.
    equal = group_relative(torch.full((2, 7), value), normalise)  # type: ignore[arg-type]
    assert equal.tolist() == [[0.0] * 7] * 2


def test_a_group_of_one_is_zero_and_finite() -> None:
    assert group_relative(torch.tensor([[3.0]]), "std").tolist() == [[0.0]]


def test_groups_do_not_see_each_other() -> None:
    shifted = RETURNS + torch.tensor([[100.0], [-7.0]])
    torch.testing.assert_close(group_relative(shifted, "std"), group_relative(RETURNS, "std"))


def test_signal_is_any_difference_in_the_group() -> None:
    returns = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1e-6], [-1.5, -1.5, -1.5], [1.0, -1.0, 1.0]])
    assert has_signal(returns).tolist() == [False, True, False, True]


def test_a_turn_is_compared_with_those_taken_in_the_same_state() -> None:
    to_go = torch.tensor([1.0, -1.0, 0.5, 3.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    states = torch.tensor([0, 0, 0, 2, 1, 1, 1])
    advantages, company = same_state(to_go, states)
    assert advantages.tolist() == pytest.approx([5 / 6, -7 / 6, 1 / 3, 0, 0, 0, 0])
    assert company.tolist() == [3, 3, 3, 1, 3, 3, 3]
    assert advantages[3:].tolist() == [0.0] * 4, "equal returns tell nothing, to the last bit"
