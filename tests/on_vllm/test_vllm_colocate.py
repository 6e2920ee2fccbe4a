"""vLLM in the trainer's process says what the trained model would, at every version of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from both import Both, agree, ids, seeded

from algos.config.schema import Config
from algos.engines.base import EngineError

CASES = [("float32", 0), ("float32", 8), ("bfloat16", 0)]


@pytest.fixture(scope="module", params=CASES, ids=["fp32", "fp32-lora", "bf16"])
def both(request: pytest.FixtureRequest, settings: Callable[..., Config]) -> Iterator[Both]:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    dtype, rank = request.param
    made = Both(settings(dtype, rank, kind="vllm_colocate"))
    yield made
    made.engine.close()
    cleanup_dist_env_and_memory()


def test_log_probabilities_are_the_trained_models_at_the_temperature_sampled(both: Both) -> None:
    prompts = both.prompts()
    for temperature in (0.7, 1.0, 1.4):
        samples = both.engine.generate(prompts, temperature, seeded())
        assert agree(both, prompts, samples, temperature)
    greedy = both.engine.generate(prompts, 0.0, seeded())
    assert agree(both, prompts, greedy, 1.0)


def test_a_sync_changes_replies_to_the_trained_models(both: Both) -> None:
    prompts = both.prompts()
    before = both.engine.generate(prompts, 0.0, seeded())
    both.train()
    both.engine.sync(both.engine.version + 1)
    after = both.engine.generate(prompts, 0.0, seeded())
    assert ids(after) != ids(before)
    assert agree(both, prompts, after, 1.0)
    if both.config.model.dtype == "float32":
        assert ids(after) == ids(both.own(prompts))


def test_replies_repeat_with_the_generator(both: Both) -> None:
    prompts = both.prompts()
    assert ids(both.engine.generate(prompts, 1.0, seeded(1))) == ids(both.engine.generate(prompts, 1.0, seeded(1)))
    assert ids(both.engine.generate(prompts, 1.0, seeded(1))) != ids(both.engine.generate(prompts, 1.0, seeded(2)))


def test_stale_weights_are_found_at_the_sync(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.train(0.05)
    with monkeypatch.context() as patch:
        patch.setattr("algos.engines.vllm_colocate.weights_of", lambda *_: iter(()))
        patch.setattr("algos.engines.vllm_colocate.VLLMColocate._load_adapter", lambda *_: None)
        with pytest.raises(EngineError, match="differ by"):
            both.engine.sync(both.engine.version + 1)
    both.engine.sync(both.engine.version + 1)
