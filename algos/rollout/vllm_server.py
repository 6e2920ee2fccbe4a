"""The engine ``vllm_server``: samples from a vLLM server on other GPUs or another host.

Weights reach the server through a folder that both can read. At the end of an upload the server is given a mark,
``<run>-<sync>-version-<version>:<upload>``, unique to that upload and lost when the server restarts. If the mark is the
same before and after a batch of requests, every reply was sampled from the weights of that upload. If not, the replies
are discarded, the weights are uploaded again, and the same requests are sent with the same seeds.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import math
import shutil
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import save_file

from algos.rollout.chat import Chat
from algos.rollout.engine import EngineError
from algos.rollout.hf import Sample
from algos.rollout.vllm_client import Client, PermanentError, TransientError
from algos.rollout.vllm_common import (
    adapter_rank,
    canary_prompts,
    check_agreement,
    difference,
    request_seeds,
    save_adapter,
    weights_of,
)
from algos.rollout.vllm_process import REQUIRED, ServerProcess
from algos.run.config import Config, ConfigError

FILE_BYTES = 2**31
ROUNDS = 5
"""How often a batch of requests is sent at most, if the server loses its weights meanwhile."""
UPLOADS = 2
"""How often a version is uploaded at most, if the server's log-probabilities differ from the trainer's afterwards."""


class VLLMServer:
    """Samples over HTTP. Every process requests its own replies; the main process uploads the weights.

    Each request has a seed drawn from the generator, so replies repeat with the generator, and a repeated request gets
    the same reply. Temperature 0 takes the likeliest token and reports its log-probability at temperature 1, as vLLM
    does for greedy requests.

    Args:
        max_length: Tokens of the longest prompt and reply together.

    Attributes:
        version: Number of optimizer steps that the server's weights have had; -1 before the first sync.
        max_new_tokens: Maximum tokens per reply.
        metrics: Of the last sync: ``engine/difference`` (see :func:`algos.rollout.vllm_common.difference`) and
            ``engine/sync_s``. Since the start: ``engine/faults`` (failed attempts), ``engine/discarded`` (replies
            discarded because the server did not hold the right weights) and ``engine/uploads_repeated`` (uploads
            repeated because server and trainer did not agree).
    """

    def __init__(self, config: Config, model: Any, chat: Chat, accelerator: Any, max_length: int) -> None:
        self.config, self.model, self.chat, self.accelerator = config, model, chat, accelerator
        self.version, self.max_new_tokens = -1, config.rollout.max_new_tokens
        self._synced = 0
        self.metrics: dict[str, float] = {"engine/discarded": 0.0, "engine/uploads_repeated": 0.0}
        self.client = Client(config.engine.url, config.engine.request_s, config.engine.retry_s)
        self.process: ServerProcess | None = None
        if config.engine.start and accelerator.is_main_process:
            self.process = ServerProcess(config, model, max_length, self.client)
            self.client.on_fault = self.process.ensure_running
        accelerator.wait_for_everyone()
        self._run = str(broadcast_object_list([uuid.uuid4().hex[:8]])[0])
        self._base, self._adapted = self._served_model(max_length), adapter_rank(model) is not None
        self._shared = (config.engine.weights or config.run.dir / "weights").resolve()
        self._shared.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            atexit.register(self._clear)
        self._pool = ThreadPoolExecutor(config.engine.concurrency)

    def sync(self, version: int) -> None:
        """Uploads the trained weights, or the adapter, and checks on a few replies that server and trainer agree.

        Raises:
            EngineError: They do not agree after a second upload either, or the server cannot be reached.
        """
        start = time.monotonic()
        for left in reversed(range(UPLOADS)):
            old = self._folder
            self.version, self._synced = version, self._synced + 1
            self._save()
            if self.accelerator.is_main_process:
                self._upload()
                shutil.rmtree(old, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            found = self.metrics["engine/difference"] = self._difference()  # the same on every process
            if found <= self.config.engine.tolerance or not left:
                break
            self.accelerator.print(f"vLLM and the trainer differ by {found:.3g} nats a token: uploading once more")
            self.metrics["engine/uploads_repeated"] += 1
        check_agreement(found, self.config, version)
        self.metrics["engine/sync_s"] = time.monotonic() - start

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """Samples one reply a prompt over the whole vocabulary; see :meth:`algos.rollout.hf.HFEngine.generate`.

        Raises:
            EngineError: The server has failed for ``engine.retry_s`` seconds, or rejects a request.
        """
        seeds = request_seeds(len(prompts), generator)
        for _ in range(ROUNDS):
            mark = self._mark() or self._restore()
            sent = [self._pool.submit(self._sample, p, s, temperature) for p, s in zip(prompts, seeds, strict=True)]
            samples = [sample for request in sent if (sample := request.result()) is not None]
            self.metrics["engine/faults"] = float(self.client.faults)
            if len(samples) == len(prompts) and self._mark() == mark:
                return samples
            self.metrics["engine/discarded"] += len(samples)
        raise EngineError(f"engine.url {self.client.url}: lost its weights {ROUNDS} times during one batch of requests")

    def close(self) -> None:
        """Ends the server if this run started it, and removes the uploaded weights."""
        self._pool.shutdown()
        if self.accelerator.is_main_process:
            self._clear()
        if self.process is not None:
            self.process.close()
        self.client.http.close()

    @property
    def _name(self) -> str:
        return f"{self._run}-{self._synced}-version-{self.version}"

    @property
    def _folder(self) -> Path:
        return self._shared / self._name

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _sample(self, prompt: list[int], seed: int, temperature: float) -> Sample | None:
        """One reply; None: the server does not have the adapter."""
        body = {
            "model": self._name if self._adapted else self._base,
            "prompt": prompt,
            "max_tokens": self.max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "logprobs": 0,  # of the sampled token only
            "return_token_ids": True,
            "stop_token_ids": sorted(self.chat.stop_ids),
            "ignore_eos": True,  # only our own stop tokens end a reply, whatever the checkpoint says
            # The full distribution, whatever the server's defaults are.
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        }
        try:
            return self.client.retry(lambda: parse(self.client.request("POST", "/v1/completions", body)))
        except PermanentError as error:
            if self._adapted and error.status == 404:
                return None
            raise

    def _mark(self) -> str | None:
        """The mark of this version's weights; None: the server does not hold them."""
        if self._adapted:
            return self._name if self._name in [card["id"] for card in self._models()] else None
        mark = str(self.client.request_with_retry("GET", "/weight_info")["weight_version"])
        return mark if mark.startswith(f"{self._name}:") else None

    def _restore(self) -> str:
        """Uploads the weights again, unless another process just did; returns their mark."""
        with (self._shared / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            return self._mark() or self._upload()

    def _save(self) -> None:
        """Writes the weights into the folder: every process helps to gather them, the main one writes."""
        write = self.accelerator.is_main_process
        if self._adapted:
            save_adapter(self.model, self._folder, write)
            return
        self._folder.mkdir(exist_ok=True)
        part: dict[str, torch.Tensor] = {}
        files = 0
        for name, weight in weights_of(self.model, getattr(torch, self.config.model.dtype)):
            if write and sum(tensor.nbytes for tensor in part.values()) + weight.nbytes > FILE_BYTES and part:
                save_file(part, self._folder / f"{files:05d}.safetensors")
                part, files = {}, files + 1
            if write:
                part[name] = weight.cpu()
        if write:
            save_file(part, self._folder / f"{files:05d}.safetensors")

    def _upload(self) -> str:
        """Makes the server load the weights from the folder; returns their mark."""
        try:
            return self.client.retry(self._upload_adapter if self._adapted else self._upload_weights)
        except PermanentError as error:
            raise EngineError(f"{error}; {REQUIRED}") from None

    def _upload_weights(self) -> str:
        post = self.client.request
        mark = f"{self._name}:{uuid.uuid4().hex[:8]}"
        # Any fault starts all of this anew, so no step may rely on what an earlier attempt did or left undone.
        post("POST", "/pause?mode=abort")
        post("POST", "/update_weight_version", {"new_version": "between two versions"})
        try:
            post("POST", "/start_weight_update")
        except TransientError:
            with contextlib.suppress(TransientError):
                post("POST", "/finish_weight_update", {})  # an unfinished update prevents the next one
            raise
        post("POST", "/update_weights", {"update_info": {"folder": str(self._folder)}})
        post("POST", "/finish_weight_update", {})
        post("POST", "/reset_prefix_cache")
        post("POST", "/resume")
        post("POST", "/update_weight_version", {"new_version": mark})  # replies count only from here on
        return mark

    def _upload_adapter(self) -> str:
        try:
            body = {"lora_name": self._name, "lora_path": str(self._folder)}
            self.client.request("POST", "/v1/load_lora_adapter", body)
        except PermanentError as error:
            if "already been loaded" not in str(error):  # by an earlier attempt whose answer was lost
                raise
        for card in self._models():
            if card["id"].startswith(f"{self._run}-") and card["id"] != self._name:
                with contextlib.suppress(TransientError, PermanentError):  # an old adapter only takes memory
                    self.client.request("POST", "/v1/unload_lora_adapter", {"lora_name": card["id"]})
        return self._name

    def _difference(self) -> float:
        """:func:`algos.rollout.vllm_common.difference` for replies to the main process."""
        prompts, temperature = canary_prompts(self.chat), self.config.rollout.temperature
        samples: list[Sample] = []
        if self.accelerator.is_main_process:
            samples = self.generate(prompts, temperature, torch.Generator().manual_seed(self.version))
        samples = broadcast_object_list([samples])[0]
        with self.accelerator.autocast():
            found = difference(self.model, prompts, samples, temperature)
        return float(broadcast_object_list([found])[0])

    def _served_model(self, max_length: int) -> str:
        """The name of the server's base model, which must accept ``max_length`` tokens."""
        card = next(card for card in self._models() if not card.get("parent"))
        if card["max_model_len"] < max_length:
            raise ConfigError(
                f"engine.url {self.client.url}: the server accepts {card['max_model_len']} tokens (--max-model-len), "
                f"but max_prompt_tokens and max_new_tokens of this run add up to {max_length}"
            )
        return str(card["id"])

    def _models(self) -> list[dict[str, Any]]:
        return self.client.request_with_retry("GET", "/v1/models")["data"]


def parse(answer: Any) -> Sample:
    """The reply in an answer of ``/v1/completions``.

    Raises:
        TransientError: It is incomplete.
    """
    try:
        choice = answer["choices"][0]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        sample = Sample([int(i) for i in ids], [float(p) for p in logprobs], str(choice["finish_reason"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TransientError(f"POST /v1/completions: no token ids and log-probabilities ({error!r})") from error
    complete = sample.stop_reason in ("stop", "length") and len(sample.ids) == len(sample.logprobs) > 0
    if not complete or not all(math.isfinite(p) for p in sample.logprobs):
        raise TransientError(f"POST /v1/completions: incomplete reply ({len(sample.ids)} tokens, {sample.stop_reason})")
    return sample
