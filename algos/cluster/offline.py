"""Detects machines without a network before anything is downloaded, so that no request waits for a timeout."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from algos.config.profiles import supercloud
from algos.config.schema import Config

VARIABLES = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
VARIABLES |= {"WANDB_MODE": "offline"}
"""These keep Hugging Face's libraries and W&B off the network."""
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
PATIENCE_S = 2.0


def offline_reason(ask: bool = False) -> str | None:
    """Why this machine counts as offline; None: it may have a network.

    Args:
        ask: Also try to reach the Hugging Face hub, for at most 2 seconds. Otherwise nothing is sent.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if is_true(os.environ.get(name, "")):
            return f"{name} is set"
    if supercloud():
        return "MIT Supercloud: compute nodes have no network"
    if any(os.environ.get(name) for name in PROXIES):
        return None
    if not has_default_route():
        return "no default route and no proxy"
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if ask and not reachable(hub.hostname or "", hub.port or (80 if hub.scheme == "http" else 443)):
        return f"{hub.netloc} does not answer"
    return None


def reachable(host: str, port: int) -> bool:
    """Whether a connection can be opened within 2 seconds, including the lookup of the name."""
    answers: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), PATIENCE_S):
            answers.append(True)

    attempt = threading.Thread(target=connect, daemon=True)  # the lookup of a name takes no timeout
    attempt.start()
    attempt.join(PATIENCE_S)
    return bool(answers)


def is_true(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")


def has_default_route(tables: Path = Path("/proc/net")) -> bool:
    """Whether Linux's routing tables lead out of the local network; True where there are none to read."""
    files = [tables / "route", tables / "ipv6_route"]
    if not files[0].exists():
        return True
    v4, v6 = ([line.split() for line in file.read_text().splitlines()] if file.exists() else [] for file in files)
    anywhere = any(row[1] == row[7] == "00000000" for row in v4 if len(row) > 7)
    return anywhere or any(row[1] == "00" and row[-1] != "lo" and row[4] != "0" * 32 for row in v6 if len(row) > 9)


def go_offline(ask: bool = False) -> str | None:
    """Keeps this process and its children off the network where there is none; variables set by the user stay.

    Args, returns:
        As :func:`offline_reason`.
    """
    reason = offline_reason(ask)
    if reason:
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        if hub := sys.modules.get("huggingface_hub.constants"):  # already imported, it has read the variable
            hub.HF_HUB_OFFLINE = is_true(os.environ["HF_HUB_OFFLINE"])  # type: ignore[attr-defined]
    return reason


def prepare(config: Config) -> None:
    """:func:`go_offline` for a run, before it makes its environments; the hub is tried only if the run needs it."""
    path = config.model.path
    wants_hub = path != "tiny" and not Path(path).expanduser().exists()
    wants_wandb = "wandb" in config.run.trackers and "WANDB_API_KEY" in os.environ
    go_offline(ask=wants_hub or wants_wandb or "hub" in str(config.env.settings.get("dataset", "")))


def exports(variables: Mapping[str, str]) -> str:
    """The variables as lines for a shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def sync_command(run_dir: Path) -> str | None:
    """The command that uploads what W&B logged offline in ``run_dir``; None if there is nothing to upload."""
    runs = sorted(run_dir.glob("wandb/offline-run-*"))
    return f"wandb sync {' '.join(str(run) for run in runs)}" if runs else None
