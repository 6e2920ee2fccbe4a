"""Generators are functions of seed, step and process: equal for equal arguments, different for others."""

from __future__ import annotations

import itertools

import torch

from algos.maths import seeds


def test_equal_arguments_give_equal_draws_and_no_two_steps_or_processes_share_theirs() -> None:
    cases = list(itertools.product((0, 1), (0, 1, 7), (0, 1)))
    for make in (seeds.shuffling_rng, seeds.opponents_rng):
        draws = [make(*case).integers(2**60) for case in cases]
        assert draws == [make(*case).integers(2**60) for case in cases]
        assert len(set(draws)) == len(cases)
    sampled = [torch.rand(1, generator=seeds.sampling_generator(*case)).item() for case in cases]
    assert sampled == [torch.rand(1, generator=seeds.sampling_generator(*case)).item() for case in cases]
    assert len(set(sampled)) == len(cases)


def test_starts_do_not_depend_on_the_process_and_their_seeds_never_repeat() -> None:
    assert seeds.starts_rng(3, 4).integers(2**60) == seeds.starts_rng(3, 4).integers(2**60)
    taken = [seeds.first_episode_seed(seed, step, 50) + i for seed in (0, 1) for step in range(40) for i in range(50)]
    assert len(set(taken)) == len(taken)
    assert min(taken) >= 10**9  # evaluations have the seeds from 0 on
