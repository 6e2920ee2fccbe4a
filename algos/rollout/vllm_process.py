"""The vLLM server: starting one as a child process, and checking one that runs already."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from algos.model.load import adapter_config
from algos.rollout.engine import EngineError
from algos.rollout.vllm_client import Client, PermanentError, TransientError
from algos.rollout.vllm_common import BACKEND, LOGPROBS_MODE, vllm_options
from algos.run.config import Config, ConfigError

REQUIRED = "start it with VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and the options of docs/vllm.md"
LAUNCHER = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_")
"""How the names of the variables begin that tell a process that it is one of several trainers."""


class ServerProcess:
    """A server that runs as a child process. It is restarted if it dies, and ends with this process in every case.

    Its output is appended to ``vllm.log`` in the run's folder.
    """

    def __init__(self, config: Config, model: Any, max_length: int, client: Client) -> None:
        self.client, self.start_s, self.log = client, config.engine.start_s, config.run.dir / "vllm.log"
        self.command, self.env = server_command(config, model, max_length), server_environment(config)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)
        self.ensure_running()

    def ensure_running(self) -> None:
        """Starts the server unless it runs, and waits until it answers.

        Raises:
            EngineError: It exited, or did not answer in time.
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
                    start_new_session=True,  # Ctrl-C stops the trainer, which then stops the server
                    preexec_fn=_end_with_parent,
                )
            deadline = time.monotonic() + self.start_s
            while True:
                with contextlib.suppress(TransientError, PermanentError):
                    self.client.request("GET", "/health")
                    return
                if self._process.poll() is not None:
                    raise EngineError(f"engine.start: the vLLM server exited: {self._last_error()} (see {self.log})")
                if time.monotonic() > deadline:
                    self.close()
                    raise EngineError(
                        f"engine.start: no answer after engine.start_s {self.start_s:g} s; see {self.log}"
                    )
                time.sleep(0.5)

    def close(self) -> None:
        """Ends the server and all processes that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _last_error(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if "Error" in line]
        return lines[-1][:300] if lines else "no error in its log"


def _end_with_parent() -> None:
    """Asks Linux to send this process a SIGTERM when its parent dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def server_command(config: Config, model: Any, max_length: int) -> list[str]:
    """The command line of a server for this run."""
    url = httpx.URL(config.engine.url)
    options = {"host": url.host, "port": url.port or 80, "disable_uvicorn_access_log": True}
    options |= vllm_options(config, model, max_length)
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_flags(options), *config.engine.args]


def _flags(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value))


def server_environment(config: Config) -> dict[str, str]:
    """The trainer's environment variables without those of its launcher, and with what a server for training needs."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHER)}
    env |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    return env if config.engine.gpus is None else env | {"CUDA_VISIBLE_DEVICES": config.engine.gpus}


def check_server(config: Config) -> None:
    """Refuses a server that does not answer or cannot load the trainer's weights, before a model loads.

    Raises:
        ConfigError: One line that names the URL.
    """
    url = config.engine.url
    lora = config.model.lora_rank > 0 or adapter_config(Path(config.model.path).expanduser()) is not None
    try:
        Client(url, request_s=20.0, retry_s=0.0).request("GET", "/health")
        # The server first inspects its whole environment, which may take half a minute.
        info = Client(url, request_s=300.0, retry_s=0.0).request("GET", "/server_info?config_format=json")
    except TransientError as error:
        raise ConfigError(f"engine.url {url}: no vLLM server answers there ({error})") from None
    except PermanentError:
        raise ConfigError(f"engine.url {url}: the server cannot load weights; {REQUIRED}") from None
    settings, env = info["vllm_config"], info["vllm_env"]
    backend = (settings.get("weight_transfer_config") or {}).get("backend")
    if not lora and backend != BACKEND:
        raise ConfigError(f"engine.url {url}: its weight transfer backend is {backend}, not {BACKEND}; {REQUIRED}")
    if lora and not (settings.get("lora_config") and env.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING")):
        raise ConfigError(f"engine.url {url}: the server cannot load adapters; {REQUIRED}")
    if (mode := settings["model_config"]["logprobs_mode"]) != LOGPROBS_MODE:
        raise ConfigError(f"engine.url {url}: --logprobs-mode is {mode}, must be {LOGPROBS_MODE}")
