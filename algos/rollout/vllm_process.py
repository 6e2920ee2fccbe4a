"""The vLLM server: starting one as a child process, and checking one that runs already."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from algos.model.load import adapter_config
from algos.rollout.engine import EngineError
from algos.rollout.vllm_client import Client, Faulty, Refused
from algos.rollout.vllm_common import CPU_BATCHED_TOKENS, WORKER_EXTENSION, adapter_rank, base_path
from algos.run.config import Config, ConfigError

REQUIRED = "start it with VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and the options of docs/vllm.md"


class ServerProcess:
    """A server that we started: it is started again should it die, and ends when we do, however that happens.

    Args:
        command: Its command line.
        env: Its environment.
        log: The file that its output is appended to.
        client: Asks it for its health.
        start_s: It must be healthy after so many seconds.
    """

    def __init__(self, command: list[str], env: dict[str, str], log: Path, client: Client, start_s: float) -> None:
        self.command, self.env, self.log, self.client, self.start_s = command, env, log, client, start_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)
        self.revive()

    def revive(self) -> None:
        """Starts it if it does not run, and waits until it answers.

        Raises:
            EngineError: It ended, or did not answer in time.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                    self.command,
                    env=self.env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the trainer, which ends the server in the end
                    preexec_fn=_end_with_parent,
                )
            deadline = time.monotonic() + self.start_s
            while True:
                with contextlib.suppress(Faulty, Refused):
                    self.client.once("GET", "/health")
                    return
                if self._process.poll() is not None:
                    raise EngineError(f"engine.start: the vLLM server ended at once: {self._last_line()}")
                if time.monotonic() > deadline:
                    self.close()
                    raise EngineError(
                        f"engine.start: no answer after engine.start_s {self.start_s:g} s; see {self.log}"
                    )
                time.sleep(0.5)

    def close(self) -> None:
        """Ends it, and all processes that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if "Error" in line]
        return f"{lines[-1].strip() if lines else 'it says nothing'} (see {self.log})"


def _end_with_parent() -> None:
    """Asks Linux to send this process a SIGTERM when its parent dies, be it by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def check_server(config: Config) -> None:
    """Refuses a server that does not answer, or cannot take weights, before a model loads.

    Raises:
        ConfigError: One line that names the URL.
    """
    url = config.engine.url
    lora = config.model.lora_rank > 0 or adapter_config(Path(config.model.path).expanduser()) is not None
    try:
        Client(url, request_s=20.0, retry_s=0.0).once("GET", "/health")
        # The server first looks at all of its environment, which may take it half a minute.
        info = Client(url, request_s=300.0, retry_s=0.0).once("GET", "/server_info?config_format=json")
    except Faulty as error:
        raise ConfigError(f"engine.url {url}: no vLLM server answers there ({error})") from None
    except Refused:
        raise ConfigError(f"engine.url {url}: the server takes no weights; {REQUIRED}") from None
    settings, env = info["vllm_config"], info["vllm_env"]
    backend = (settings.get("weight_transfer_config") or {}).get("backend")
    if not lora and backend != "llm_gym":
        raise ConfigError(f"engine.url {url}: its weight transfer backend is {backend}, not llm_gym; {REQUIRED}")
    if lora and not (settings.get("lora_config") and env.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING")):
        raise ConfigError(f"engine.url {url}: the server takes no adapters; {REQUIRED}")
    if (mode := settings["model_config"]["logprobs_mode"]) != "processed_logprobs":
        raise ConfigError(f"engine.url {url}: --logprobs-mode is {mode}, must be processed_logprobs")


def server_command(config: Config, model: Any, max_length: int) -> list[str]:
    """The command line of a server for this run."""
    url = urlsplit(config.engine.url)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base_path(model)]
    command += ["--host", str(url.hostname), "--port", str(url.port or 8000), "--dtype", config.model.dtype]
    command += ["--max-model-len", str(max_length), "--seed", str(config.run.seed), "--generation-config", "vllm"]
    command += ["--logprobs-mode", "processed_logprobs", "--disable-uvicorn-access-log"]
    if not torch.cuda.is_available():
        command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens"]
        command += [str(max(max_length, CPU_BATCHED_TOKENS))]
    if rank := adapter_rank(model):
        command += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", "1"]
    else:
        command += ["--worker-extension-cls", WORKER_EXTENSION]
        command += ["--weight-transfer-config", '{"backend": "llm_gym"}']
    return command + config.engine.args


def server_environment(config: Config) -> dict[str, str]:
    """Ours, without what says that a process is one of several trainers."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHER)}
    env |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    return env if config.engine.gpus is None else env | {"CUDA_VISIBLE_DEVICES": config.engine.gpus}


LAUNCHER = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_")
