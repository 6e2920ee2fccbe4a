"""The engine ``vllm_colocate``: vLLM in the trainer's own process, on the same device.

On a GPU, vLLM sleeps while the model is trained: its weights move to main memory and its key-value cache is freed.
On a CPU it never sleeps.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from algos.model.forward import causal_lm
from algos.rollout.chat import Chat
from algos.rollout.engine import EngineError
from algos.rollout.hf import Sample
from algos.rollout.vllm_common import (
    adapter_rank,
    canary_prompts,
    check_agreement,
    difference,
    request_seeds,
    save_adapter,
    vllm_options,
    weights_of,
)
from algos.run.config import Config


class VLLMColocate:
    """Samples with vLLM's ``LLM``; each process has its own.

    Each request has a seed drawn from the generator, so replies repeat with the generator. Temperature 0 takes the
    likeliest token and reports its log-probability at temperature 1, as vLLM does for greedy requests.

    Args:
        max_length: Tokens of the longest prompt and reply together.

    Attributes:
        version: Number of optimizer steps that vLLM's weights have had; -1 before the first sync.
        max_new_tokens: Maximum tokens per reply.
        metrics: ``engine/difference`` at the last sync: see :func:`algos.rollout.vllm_common.difference`.
    """

    def __init__(self, config: Config, model: Any, chat: Chat, accelerator: Any, max_length: int) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # vLLM must run in this process to load the model's tensors
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        self.model, self.chat, self.config, self.accelerator = model, chat, config, accelerator
        self.version, self.max_new_tokens = -1, config.rollout.max_new_tokens
        self.metrics: dict[str, float] = {}
        self._cuda = torch.cuda.is_available()
        self._asleep: set[str] = set()
        self._folder = Path(tempfile.mkdtemp(prefix="llm_gym_adapter_"))
        self._adapter: Any = None
        try:
            self._llm = LLM(
                **vllm_options(config, model, max_length),
                gpu_memory_utilization=config.engine.gpu_memory,
                enable_sleep_mode=self._cuda,
                enforce_eager=not self._cuda,  # compiling for a CPU takes minutes
                distributed_executor_backend="external_launcher" if accelerator.num_processes > 1 else "uni",
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise EngineError(f"engine.kind vllm_colocate: vLLM does not start: {str(error)[:300]}") from error
        if self._cuda:
            causal_lm(model).get_decoder().register_forward_pre_hook(self._sleep_while_training)

    def sync(self, version: int) -> None:
        """Loads the trained weights, or the adapter, into vLLM and checks on a few replies that vLLM and trainer agree.

        Raises:
            EngineError: They do not agree.
        """
        self._wake("weights")
        if adapter_rank(self.model):
            self._load_adapter(version)
        else:
            weights = weights_of(self.model, getattr(torch, self.config.model.dtype))
            self._llm.start_weight_update()
            self._llm.update_weights({"update_info": {"tensors": weights}})
            self._llm.finish_weight_update(str(version))
        self._llm.reset_prefix_cache()
        self.version = version
        prompts, temperature = canary_prompts(self.chat), self.config.rollout.temperature
        samples = self.generate(prompts, temperature, torch.Generator().manual_seed(version))
        with self.accelerator.autocast():
            self.metrics["engine/difference"] = difference(self.model, prompts, samples, temperature)
        check_agreement(self.metrics["engine/difference"], self.config, version)

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """Samples one reply a prompt over the whole vocabulary; see :meth:`algos.rollout.hf.HFEngine.generate`."""
        from vllm import SamplingParams

        self._wake("weights", "kv_cache")
        settings = [
            SamplingParams(
                temperature=temperature,
                seed=seed,
                max_tokens=self.max_new_tokens,
                logprobs=0,  # of the sampled token only
                stop_token_ids=sorted(self.chat.stop_ids),
                ignore_eos=True,  # only our own stop tokens end a reply, whatever the checkpoint says
                detokenize=False,
            )
            for seed in request_seeds(len(prompts), generator)
        ]
        inputs: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(inputs, settings, use_tqdm=False, lora_request=self._adapter)
        samples = []
        for output in outputs:
            reply = output.outputs[0]
            ids = list(reply.token_ids)
            logprobs = [float(at[token].logprob) for token, at in zip(ids, reply.logprobs, strict=True)]
            samples.append(Sample(ids, logprobs, str(reply.finish_reason)))
        return samples

    def close(self) -> None:
        """Frees the memory of vLLM and removes the saved adapter."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._llm.llm_engine.engine_core.shutdown()

    def _load_adapter(self, version: int) -> None:
        from vllm.lora.request import LoRARequest

        folder = self._folder / str(version)
        shutil.rmtree(folder, ignore_errors=True)
        save_adapter(self.model, folder, write=True)
        old, number = self._adapter, self._adapter.lora_int_id + 1 if self._adapter else 1
        self._adapter = LoRARequest(f"version-{version}-{number}", number, str(folder))
        self._llm.llm_engine.add_lora(self._adapter)
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path, ignore_errors=True)

    def _wake(self, *parts: str) -> None:
        if needed := [part for part in parts if part in self._asleep]:
            self._llm.wake_up(tags=needed)
            self._asleep -= set(needed)

    def _sleep_while_training(self, *_: Any) -> None:
        if torch.is_grad_enabled() and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = {"weights", "kv_cache"}
