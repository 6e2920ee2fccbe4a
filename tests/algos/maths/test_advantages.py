"""Advantages against numbers worked out by hand, direct sums and exact expectations."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algos.cluster import processes
from algos.maths.advantages import (
    RoleBaseline,
    RunningScale,
    explained_variance,
    gae,
    group_relative,
    nonzero_std,
    same_state,
    whiten,
)

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
    assert nonzero_std(returns).tolist() == [False, True, False, True]


def test_a_turn_is_compared_with_those_taken_in_the_same_state() -> None:
    to_go = torch.tensor([1.0, -1.0, 0.5, 3.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    states = torch.tensor([0, 0, 0, 2, 1, 1, 1])
    advantages, company = same_state(to_go, states)
    assert advantages.tolist() == pytest.approx([5 / 6, -7 / 6, 1 / 3, 0, 0, 0, 0])
    assert company.tolist() == [3, 3, 3, 1, 3, 3, 3]
    assert advantages[3:].tolist() == [0.0] * 4, "equal returns tell nothing, to the last bit"


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


finite = st.floats(-100, 100, allow_subnormal=False)
shares = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(st.tuples(finite, finite), max_size=12), finite, shares, shares)
def test_gae_is_the_discounted_sum_of_all_later_errors(
    steps: list[tuple[float, float]], bootstrap: float, gamma: float, gae_lambda: float
) -> None:
    rewards, values = [r for r, _ in steps], [v for _, v in steps]
    after = [*values, bootstrap][1:]
    deltas = [r + gamma * w - v for r, w, v in zip(rewards, after, values)]
    direct = [
        sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))
    ]
    advantages, targets = gae(tensor(*rewards), tensor(*values), bootstrap, gamma, gae_lambda)
    torch.testing.assert_close(advantages, tensor(*direct), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(targets, tensor(*direct) + tensor(*values), rtol=1e-10, atol=1e-9)


def test_gae_by_hand_when_cut_off_and_when_ended() -> None:
    rewards, values = tensor(1.0, 0.0, 2.0), tensor(0.5, 1.0, -1.0)
    # Errors with gamma 0.5: 1 + 0.5 - 0.5 = 1; 0 - 0.5 - 1 = -1.5; 2 + 0.5 b + 1. gamma lambda = 0.25.
    for bootstrap, last in ((0.0, 3.0), (4.0, 5.0)):
        advantages, targets = gae(rewards, values, bootstrap, gamma=0.5, gae_lambda=0.5)
        second = -1.5 + 0.25 * last
        assert advantages.tolist() == pytest.approx([1 + 0.25 * second, second, last])
        assert (targets - advantages).tolist() == pytest.approx(values.tolist())


def test_gae_over_decisions_does_not_decay_over_observation_tokens() -> None:
    """Trap: four replies of 3 tokens, 20 observation tokens between them, a reward at the end, lambda 0.95."""
    sampled = torch.tensor(([True] * 3 + [False] * 20) * 3 + [True] * 3)
    rewards = torch.zeros(len(sampled), dtype=torch.float64)
    rewards[-1] = 1.0
    values = torch.zeros_like(rewards)
    of_all_tokens, _ = gae(rewards, values, 0.0, 1.0, 0.95)
    of_decisions, _ = gae(rewards[sampled], values[sampled], 0.0, 1.0, 0.95)
    assert of_decisions[2].item() == pytest.approx(0.95**9)  # 0.630
    assert of_all_tokens[2].item() < 0.03, "what the trap would have given"


def test_gae_takes_an_episode_without_reward_and_an_empty_one() -> None:
    """Trap: turns found by their non-zero rewards; an episode of zeros raised."""
    assert gae(torch.zeros(3), torch.zeros(3), 0.0, 1.0, 0.95)[0].tolist() == [0.0] * 3
    advantages, targets = gae(torch.zeros(0), torch.zeros(0), 1.0, 1.0, 0.95)
    assert advantages.shape == targets.shape == (0,)


def test_gae_does_not_train_the_critic_through_its_targets() -> None:
    advantages, targets = gae(torch.ones(2), torch.ones(2, requires_grad=True), 0.0, 1.0, 0.95)
    assert not advantages.requires_grad
    assert not targets.requires_grad


def test_gae_refuses_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"rewards \[3\] and values \[2\] must both be \[n\]"):
        gae(torch.zeros(3), torch.zeros(2), 0.0, 1.0, 0.95)


def test_whitened_by_hand_with_and_without_weights() -> None:
    torch.testing.assert_close(whiten(tensor(1, 2, 3)), tensor(-1, 0, 1) * math.sqrt(1.5))
    # A weight of 2 counts a value twice: 1, 3, 3 have mean 7/3 and variance 8/9.
    torch.testing.assert_close(whiten(tensor(1, 3), tensor(1, 2)), (tensor(1, 3) - 7 / 3) / math.sqrt(8 / 9))


@pytest.mark.parametrize("offset", [0.0, 1e3, -3e4])
def test_whitening_centres_in_float32_far_from_zero(offset: float) -> None:
    """Traps: the mean added back; E[x^2] - E[x]^2, which is negative noise here in float32."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 0.5 + offset
    white = whiten(x).double()
    assert white.mean().abs().item() < 1e-7
    assert white.var(correction=0).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1.5, 1e8, 1e-20])
def test_constant_advantages_whiten_to_zero_and_never_to_nan(value: float, dtype: torch.dtype) -> None:
    weights = torch.rand(777, generator=torch.Generator().manual_seed(0))
    for given_weights in (None, weights):
        white = whiten(torch.full((777,), value, dtype=dtype), given_weights)
        assert white.dtype == dtype
        assert white.tolist() == [0.0] * 777


def test_nothing_to_whiten() -> None:
    assert whiten(torch.zeros(0)).shape == (0,)
    assert whiten(torch.ones(2), torch.zeros(2)).tolist() == [0.0, 0.0]


@given(st.lists(finite, min_size=2, max_size=20), st.floats(0.01, 100), finite)
def test_whitening_forgets_scale_and_offset(values: list[float], scale: float, offset: float) -> None:
    if max(values) - min(values) < 1e-3:
        values = [*values, values[0] + 1.0]
    torch.testing.assert_close(whiten(tensor(*values) * scale + offset), whiten(tensor(*values)), rtol=1e-6, atol=1e-6)


def test_explained_variance_by_hand() -> None:
    targets = tensor(1, 2, 3, 4)
    assert explained_variance(targets, targets) == 1.0
    assert explained_variance(targets + 7.0, targets) == 1.0, "an offset is no variance"
    assert explained_variance(torch.zeros(4), targets) == 0.0
    assert explained_variance(targets.flip(0), targets) == pytest.approx(-3.0)  # errors -3 -1 1 3: 1 - 5 / 1.25


def test_explained_variance_of_constant_targets_is_zero() -> None:
    assert explained_variance(torch.rand(7), torch.full((7,), 0.1)) == 0.0
    assert explained_variance(torch.zeros(0), torch.zeros(0)) == 0.0


@given(st.lists(finite, max_size=20), st.lists(finite, max_size=20))
def test_running_scale_is_the_deviation_of_all_returns_and_survives_a_checkpoint(
    first: list[float], second: list[float]
) -> None:
    before, scale = RunningScale(), RunningScale()
    before.update(first)
    scale.load_state_dict(json.loads(json.dumps(before.state_dict())))
    scale.update(second)
    deviation = tensor(*first, *second).std(correction=0).item() if first + second else 0.0
    if deviation > 1e-6:
        assert scale.value == pytest.approx(deviation, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e8])
def test_running_scale_of_equal_returns_is_one(value: float) -> None:
    scale = RunningScale()
    assert scale.value == 1.0
    scale.update([value] * 7)
    assert scale.value == 1.0


TTT, KUHN = "tictactoe", "kuhn_poker"
PLAYED = [(1.0, (TTT, 0)), (-1.0, (TTT, 1)), (1.0, (TTT, 0)), (2.0, (KUHN, 0)), (-1.0, (TTT, 0)), (-1.0, (TTT, 1))]
# b of (tictactoe, 0): 0, 0.05, 0.0975 and then 0.042625; of (tictactoe, 1): 0, -0.05; of (kuhn_poker, 0): 0.
CREDIT = [1.0, -1.0, 0.95, 2.0, -1.0975, -0.95]
BASELINES = {(TTT, 0): 0.042625, (TTT, 1): -0.0975, (KUHN, 0): 0.1}


def test_each_role_is_compared_with_its_own_past() -> None:
    """Trap: the baseline read after its update, which only scales every advantage by the decay."""
    baseline = RoleBaseline(0.95)
    assert baseline.advantages([r for r, _ in PLAYED], [k for _, k in PLAYED]) == pytest.approx(CREDIT, rel=1e-12)
    assert baseline.values == pytest.approx(BASELINES, rel=1e-12)


def test_the_advantage_of_an_unfair_seat_falls_to_zero() -> None:
    baseline = RoleBaseline()
    first, second = [], []
    for _ in range(200):  # the first seat always wins
        a, b = baseline.advantages([1.0, -1.0], [(TTT, 0), (TTT, 1)])
        first.append(a)
        second.append(b)
    assert first == pytest.approx([0.95**n for n in range(200)], rel=1e-9)
    assert second == pytest.approx([-a for a in first])


def test_baselines_survive_a_checkpoint_as_json_and_by_torch(tmp_path: Path) -> None:
    whole, before = RoleBaseline(), RoleBaseline()
    expected = whole.advantages([r for r, _ in PLAYED], [k for _, k in PLAYED])[3:]
    before.advantages([r for r, _ in PLAYED[:3]], [k for _, k in PLAYED[:3]])
    torch.save(before.state_dict(), tmp_path / "state.pt")
    for state in (json.loads(json.dumps(before.state_dict())), torch.load(tmp_path / "state.pt", weights_only=True)):
        after = RoleBaseline()
        after.load_state_dict(state)
        assert after.advantages([r for r, _ in PLAYED[3:]], [k for _, k in PLAYED[3:]]) == expected
        assert after.values == whole.values


def test_baselines_refuse_bad_input_and_stay_as_they_were() -> None:
    for decay in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
            RoleBaseline(decay)
    baseline = RoleBaseline()
    with pytest.raises(ValueError, match="2 returns but 1 keys"):
        baseline.advantages([1.0, 2.0], [(TTT, 0)])
    assert baseline.values == {}


SHARES = [PLAYED[:4], PLAYED[4:]]
WHITENED = [tensor(3.0, -1.0, 5.0, 0.5), tensor()], [tensor(1.0, 2.0), tensor(7.0, -30.0, 2.5)]


def one_of_two(rank: int, folder: Path) -> None:
    """Run in a process of its own: its share of the games and of two batches to whiten."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def summed(sums: Tensor) -> Tensor:
        dist.all_reduce(sums)
        return sums

    baseline, played = RoleBaseline(), [SHARES[0]] * 2
    dist.all_gather_object(played, SHARES[rank])
    everything = [game for share in played for game in share]
    credit = baseline.advantages([r for r, _ in everything], [k for _, k in everything])
    white = [whiten(batch[rank], reduce=summed) for batch in WHITENED]
    equal = whiten(torch.full((rank + 2,), 0.1), reduce=summed)
    torch.save((credit, baseline.state_dict(), white, equal), folder / f"{rank}.pt")
    processes.end(0)


def test_two_processes_hold_the_same_baselines_and_whiten_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = RoleBaseline()
    assert alone.advantages([r for r, _ in PLAYED], [k for _, k in PLAYED]) == results[0][0] == results[1][0]
    assert alone.state_dict() == results[0][1] == results[1][1]
    for number, batch in enumerate(WHITENED):
        parts = torch.cat([result[2][number] for result in results])
        torch.testing.assert_close(parts, whiten(torch.cat(batch)), rtol=1e-12, atol=1e-12)
    assert [result[3].tolist() for result in results] == [[0.0] * 2, [0.0] * 3]
