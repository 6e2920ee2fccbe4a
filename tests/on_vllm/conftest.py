"""What the tests on a real vLLM share: a model and one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from both import Both, free_url
from transformers import Qwen3Config, Qwen3ForCausalLM

from algos.config.schema import Config, EnvSection, SftSection
from algos.engines.vllm_common import vllm_installed
from algos.model.chat import Chat
from algos.warm_start.demonstrations import as_rows, demonstrate
from algos.warm_start.embedded import untrained_tiny
from algos.warm_start.fit import fit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not vllm_installed():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs vLLM: make test-vllm"))


@pytest.fixture(scope="session", autouse=True)
def _a_small_cpu() -> Iterator[None]:
    """vLLM on a CPU: one thread (it is fifty times slower where threads outnumber cores), 1 GiB of key-value cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"):
            patch.setenv(name, "1")
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        patch.setenv(
            "TORCHDYNAMO_DISABLE", "1"
        )  # vLLM compiles part of its sampler: a minute for a fraction of a second
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with attention heads that vLLM's CPU kernels take, and grouped ones; a little trained."""
    folder = tmp_path_factory.mktemp("model")
    recipe = SftSection(episodes=150, steps=40, batch=64)
    talks = demonstrate(EnvSection(seat="alternate"), recipe, 0)
    embedded, tokenizer = untrained_tiny(talks, 0)
    shape = {"head_dim": 32, "num_attention_heads": 6, "num_key_value_heads": 3}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**embedded.config.to_dict() | shape))
    for _ in fit(model, as_rows(talks, Chat(tokenizer), "turn"), recipe, 0):
        pass
    assert model.config.tie_word_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    def make(dtype: str = "float32", lora_rank: int = 0, **engine: Any) -> Config:
        return Config.model_validate(
            {
                "run": {"dir": tmp_path_factory.mktemp("run")},
                "model": {"path": str(model_folder), "dtype": dtype, "lora_rank": lora_rank},
                "rollout": {"max_prompt_tokens": 256, "max_new_tokens": 16, "temperature": 0.8},
                "engine": {"request_s": 60.0, "retry_s": 120.0, **engine},
            }
        )

    return make


@pytest.fixture(scope="session")
def served(settings: Callable[..., Config]) -> Iterator[Both]:
    """An engine whose server it started itself; the server takes whole weights and adapters."""
    args = ["--enforce-eager", "--enable-lora", "--max-lora-rank", "8", "--max-loras", "1"]
    both = Both(settings(kind="vllm_server", start=True, url=free_url(), args=args))
    yield both
    both.engine.close()
