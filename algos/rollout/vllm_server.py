"""The engine ``vllm_server``: samples from a vLLM server, on other GPUs or another host.

Weights go through a folder that both see. The server is told where they are and, last of all, that it now holds
``<run>-<sync>-version-<version>:<upload>``. This mark is lost when the server is restarted, and no two uploads have the
same one. So replies that came between two readings of one and the same mark are from those very weights. All others are
thrown away, the weights uploaded again from the folder, and the same requests sent again with the same seeds.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from algos.rollout.chat import Chat
from algos.rollout.engine import EngineError
from algos.rollout.hf import Sample
from algos.rollout.vllm_client import Client, Faulty, Refused
from algos.rollout.vllm_common import (
    adapter_rank,
    canary_prompts,
    check_agreement,
    difference,
    request_seeds,
    save_adapter,
    weights_of,
)
from algos.rollout.vllm_process import REQUIRED, ServerProcess, server_command, server_environment
from algos.run.config import Config, ConfigError

FILE_BYTES = 2**31
ROUNDS = 5
"""A batch of requests is sent at most so many times because the server was restarted meanwhile."""
UPLOADS = 2
"""Weights are uploaded at most so many times because what the server says afterwards is not what they would say."""


class VLLMServer:
    """Samples over HTTP; every process asks for its own replies, the main one uploads weights.

    Replies repeat with the generator, and a request that is repeated gets the same reply: each has a seed drawn from
    the generator. Temperature 0 takes the likeliest token and reports its log-probability at temperature 1, as vLLM
    does for greedy requests.

    Attributes:
        version: Number of optimizer steps that the server's weights have had; -1 before the first sync.
        max_new_tokens: A reply is cut after so many.
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
            log = config.run.dir / "vllm.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            command, env = server_command(config, model, max_length), server_environment(config)
            self.process = ServerProcess(command, env, log, self.client, config.engine.start_s)
            self.client.on_fault = self.process.revive
        accelerator.wait_for_everyone()
        run = broadcast_object_list([uuid.uuid4().hex[:8]])[0]
        self._run, self._base = str(run), self._served_model(max_length)
        self._shared = (config.engine.weights or config.run.dir / "weights").resolve()
        self._shared.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            atexit.register(self._clear)
        self._pool = ThreadPoolExecutor(config.engine.concurrency)

    def sync(self, version: int) -> None:
        """Uploads the trained weights, or the adapter, and checks on a few replies that both sides agree.

        Raises:
            EngineError: They do not, uploaded a second time either; or the server cannot be reached.
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
            EngineError: The server has failed for ``engine.retry_s`` seconds, or refuses a request.
        """
        seeds = request_seeds(len(prompts), generator)
        for _ in range(ROUNDS):
            mark = self._held() or self._repair()
            asked = [self._pool.submit(self._ask, p, s, temperature) for p, s in zip(prompts, seeds, strict=True)]
            samples = [sample for request in asked if (sample := request.result()) is not None]
            self.metrics["engine/faults"] = float(self.client.faults)
            if len(samples) == len(prompts) and self._held() == mark:
                return samples
            self.metrics["engine/discarded"] += len(samples)
        raise EngineError(f"engine.url {self.client.url}: lost its weights {ROUNDS} times during one batch of requests")

    def close(self) -> None:
        """Ends the server, if it is ours, and removes the weights that it was given."""
        self._pool.shutdown()
        if self.accelerator.is_main_process:
            self._clear()
        if self.process is not None:
            self.process.close()

    @property
    def _name(self) -> str:
        return f"{self._run}-{self._synced}-version-{self.version}"

    @property
    def _folder(self) -> Path:
        return self._shared / self._name

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, prompt: list[int], seed: int, temperature: float) -> Sample | None:
        """One reply; None: the server does not know the adapter."""
        adapted = adapter_rank(self.model) is not None
        body = {
            "model": self._name if adapted else self._base,
            "prompt": prompt,
            "max_tokens": self.max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "logprobs": 0,  # of the sampled token only
            "return_token_ids": True,
            "stop_token_ids": sorted(self.chat.stop_ids),
            "ignore_eos": True,  # the stop tokens are ours, whatever the checkpoint says
            # The full support, whatever defaults the server has.
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        }
        try:
            return self.client.patiently(lambda: parse(self.client.once("POST", "/v1/completions", body)))
        except Refused as error:
            if adapted and error.status == 404:
                return None
            raise EngineError(f"engine.url {self.client.url}: {error}") from None

    def _held(self) -> str | None:
        """The mark of this version's weights; None: the server does not hold them."""
        if adapter_rank(self.model) is not None:
            names = [card["id"] for card in self._get("/v1/models")["data"]]
            return self._name if self._name in names else None
        mark = str(self._get("/weight_info")["weight_version"])
        return mark if mark.startswith(f"{self._name}:") else None

    def _repair(self) -> str:
        """Uploads the weights again, unless another process just did."""
        with self._locked():
            return self._held() or self._upload()

    def _save(self) -> None:
        """Every process takes part in gathering the weights; the main one writes them."""
        write = self.accelerator.is_main_process
        if adapter_rank(self.model) is not None:
            save_adapter(self.model, self._folder, write)
            return
        from safetensors.torch import save_file

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
        """Has the server load what the folder holds; returns its mark."""
        try:
            if adapter_rank(self.model) is not None:
                return self.client.patiently(self._upload_adapter)
            return self.client.patiently(self._upload_weights)
        except Refused as error:
            raise EngineError(f"engine.url {self.client.url}: {error}; {REQUIRED}") from None

    def _upload_weights(self) -> str:
        post = self.client.once
        mark = f"{self._name}:{uuid.uuid4().hex[:8]}"
        # Begun anew after any fault, so nothing here may rely on what an earlier attempt did or left undone.
        post("POST", "/pause?mode=abort")
        post("POST", "/update_weight_version", {"new_version": "between two versions"})
        try:
            post("POST", "/start_weight_update")
        except Faulty:
            with contextlib.suppress(Faulty):
                post("POST", "/finish_weight_update", {})  # an update that was cut off in the middle forbids another
            raise
        post("POST", "/update_weights", {"update_info": {"folder": str(self._folder)}})
        post("POST", "/finish_weight_update", {})
        post("POST", "/reset_prefix_cache")
        post("POST", "/resume")
        post("POST", "/update_weight_version", {"new_version": mark})  # only now are replies worth anything
        return mark

    def _upload_adapter(self) -> str:
        try:
            self.client.once("POST", "/v1/load_lora_adapter", {"lora_name": self._name, "lora_path": str(self._folder)})
        except Refused as error:
            if "already been loaded" not in str(error):  # an attempt whose answer was lost
                raise
        for card in self._get("/v1/models")["data"]:
            if card["id"].startswith(f"{self._run}-") and card["id"] != self._name:
                with contextlib.suppress(Faulty, Refused):  # it only takes room
                    self.client.once("POST", "/v1/unload_lora_adapter", {"lora_name": card["id"]})
        return self._name

    def _difference(self) -> float:
        """See :func:`algos.rollout.vllm_common.difference`; of replies to the main process."""
        prompts, temperature = canary_prompts(self.chat), self.config.rollout.temperature
        samples: list[Sample] = []
        if self.accelerator.is_main_process:
            samples = self.generate(prompts, temperature, torch.Generator().manual_seed(self.version))
        samples = broadcast_object_list([samples])[0]
        with self.accelerator.autocast():
            found = difference(self.model, prompts, samples, temperature)
        return float(broadcast_object_list([found])[0])

    def _served_model(self, max_length: int) -> str:
        """The name of the base model on the server, which must take prompts as long as ours."""
        cards = [card for card in self._get("/v1/models")["data"] if not card.get("parent")]
        if cards[0]["max_model_len"] < max_length:
            raise ConfigError(
                f"engine.url {self.client.url}: takes {cards[0]['max_model_len']} tokens (--max-model-len), "
                f"max_prompt_tokens and max_new_tokens of this run make {max_length}"
            )
        return str(cards[0]["id"])

    def _get(self, path: str) -> Any:
        return self.client.call("GET", path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._shared / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def parse(answer: Any) -> Sample:
    """The reply in an answer of ``/v1/completions``.

    Raises:
        Faulty: It is not whole.
    """
    try:
        choice = answer["choices"][0]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        sample = Sample([int(i) for i in ids], [float(p) for p in logprobs], str(choice["finish_reason"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Faulty(f"POST /v1/completions: not an answer with token ids and log-probabilities ({error!r})") from error
    whole = sample.stop_reason in ("stop", "length") and len(sample.ids) == len(sample.logprobs) > 0
    if not whole or not all(math.isfinite(p) for p in sample.logprobs):
        raise Faulty(f"POST /v1/completions: half a reply ({len(sample.ids)} tokens, {sample.stop_reason})")
    return sample
