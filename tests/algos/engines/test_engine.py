"""What is refused before a model loads, and what is handed to vLLM; tests/on_vllm has the engines themselves."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from algos.config.schema import Config
from algos.engines.make import check_engine
from algos.engines.vllm_client import TransientError
from algos.engines.vllm_common import check_adapter, request_seeds, save_adapter, weights_of
from algos.engines.vllm_process import server_command
from algos.engines.vllm_server import parse
from algos.errors import ConfigError


def config(model: dict[str, Any] | None = None, **engine: Any) -> Config:
    return Config.model_validate({"model": {"path": "owner/name", **(model or {})}, "engine": engine})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(kind="vllm_server", url="localhost:8000"), "must be like http://host:8000"),
        (config(kind="vllm_server", url="http://localhost:port"), "must be like http://host:8000"),
        (config(kind="vllm_server", url="http://127.0.0.1:9"), "http://127.0.0.1:9: no vLLM server answers there"),
        (config({"quantize": "nf4", "lora_rank": 8}, kind="vllm_server"), "weights in 4 bits"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(settings: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_engine(settings)
    assert "\n" not in str(error.value)


def test_a_missing_vllm_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for settings in (config(kind="vllm_colocate"), config(kind="vllm_server", start=True)):
        with pytest.raises(ConfigError, match=r'pip install "llm-gym\[vllm\]"'):
            check_engine(settings)


def test_weights_are_named_as_in_a_checkpoint_and_are_copies() -> None:
    model = micro_model(dtype=torch.float32)
    weights = dict(weights_of(model, torch.bfloat16))
    assert weights.keys() == dict(model.named_parameters()).keys()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    first = next(iter(weights_of(model, torch.float32)))[1]
    before = first.clone()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert torch.equal(first, before)


def adapted(**settings: Any) -> Any:
    return get_peft_model(micro_model(dtype=torch.float32), LoraConfig(target_modules=["q_proj", "v_proj"], **settings))


def test_an_adapter_is_saved_as_peft_saves_it(tmp_path: Path) -> None:
    model = adapted(r=4)
    save_adapter(model, tmp_path / "ours", write=True)
    model.save_pretrained(tmp_path / "peft")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "peft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    settings = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "peft")]
    assert settings[0]["r"] == settings[1]["r"] == 4


def test_an_adapter_that_vllm_would_serve_wrongly_is_refused() -> None:
    check_adapter(adapted(r=4))
    for extra in ({"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}):
        with pytest.raises(ConfigError, match="plain LoRA"):
            check_adapter(adapted(**extra))


def test_a_server_is_started_with_the_settings_of_the_run_and_then_the_arguments_given() -> None:
    settings = config({"dtype": "float32"}, kind="vllm_server", url="http://[::1]:8123", args=["--seed", "7"])
    plain, lora = (micro_model(dtype=torch.float32), adapted(r=9))
    for model in (plain, lora):
        model.config.name_or_path = "owner/name"
    commands = [server_command(settings, model, 320) for model in (plain, lora)]
    for command in commands:
        options = dict(pairwise(command))
        assert options["--model"] == "owner/name"
        assert (options["--host"], options["--port"]) == ("::1", "8123")
        assert (options["--dtype"], options["--max-model-len"]) == ("float32", "320")
        assert (options["--logprobs-mode"], options["--generation-config"]) == ("processed_logprobs", "vllm")
        assert command[-2:] == ["--seed", "7"]
        if not torch.cuda.is_available():
            assert "--no-enable-chunked-prefill" in command
            assert options["--max-num-batched-tokens"] == "8192"
    module, _, name = dict(pairwise(commands[0]))["--worker-extension-cls"].rpartition(".")
    spec = find_spec(module)
    assert spec is not None
    assert f"class {name}" in Path(str(spec.origin)).read_text()
    assert json.loads(dict(pairwise(commands[0]))["--weight-transfer-config"]) == {"backend": "llm_gym"}
    assert "--enable-lora" in commands[1]
    assert dict(pairwise(commands[1]))["--max-lora-rank"] == "16"
    assert "--worker-extension-cls" not in commands[1]


def test_seeds_come_from_the_generator_alone() -> None:
    seeds = request_seeds(100, torch.Generator().manual_seed(1))
    assert seeds == request_seeds(100, torch.Generator().manual_seed(1))
    assert len(set(seeds)) == 100


CHOICE = {"token_ids": [5, 7], "logprobs": {"token_logprobs": [-0.5, -1.0]}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "change",
    [
        {"finish_reason": "abort"},
        {"token_ids": [5]},
        {"token_ids": None},
        {"logprobs": None},
        {"token_ids": [], "logprobs": {"token_logprobs": []}},
        {"logprobs": {"token_logprobs": [-0.5, float("nan")]}},
    ],
)
def test_half_a_reply_is_asked_for_again(change: dict[str, Any]) -> None:
    assert parse({"choices": [CHOICE]}).ids == [5, 7]
    with pytest.raises(TransientError):
        parse({"choices": [CHOICE | change]})
