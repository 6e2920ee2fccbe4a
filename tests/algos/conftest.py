"""What the trainers' tests share: a cache of their own, one tiny model, one micro model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from algos.config.schema import EnvSection, SftSection
from algos.warm_start.embedded import tiny_model

BARELY_TRAINED = SftSection(episodes=150, steps=30, batch=64)
"""Enough for replies in the right format, most of them illegal."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "llm_gym_cache"


@pytest.fixture(scope="session", autouse=True)
def _own_cache_and_one_thread(cache: Path) -> Iterator[None]:
    """One thread: sums in one order, here and in the processes that tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_GYM_CACHE", str(cache))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_folder(cache: Path) -> Path:
    return tiny_model(EnvSection(), "turn", BARELY_TRAINED)


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors made from Python numbers are float64, those that the trainer makes included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
