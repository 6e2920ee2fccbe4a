"""Tests which layers of the sandbox work on this machine, by trying each of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from llm_gym.sandbox.pool import Pool
from llm_gym.sandbox.results import Isolation, SandboxUnavailable
from llm_gym.sandbox.warm import worker_command

# Each line is something that a program must not be able to do.
_ESCAPES = """
import os, socket
def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError:
        return True
print(all([refused(open, "/etc/passwd"), refused(socket.socket), refused(os.execv, "/bin/sh", ["sh"]),
refused(os.fork)]))
"""


@dataclass(frozen=True)
class Layer:
    """One layer, as it was found.

    Attributes:
        name: What it is called.
        holds: Whether it works here.
        detail: What was observed, or the kernel's error.
    """

    name: str
    holds: bool
    detail: str


def probe() -> list[Layer]:
    """Try every layer, then the whole sandbox in each of its forms. Takes about a second and changes nothing.

    The names of the last three are `isolation='full'`, `isolation='container'` and `isolation='best_effort'`.
    """
    if sys.platform == "linux":
        layers = _single_layers()
    else:
        layers = [
            Layer(
                "namespaces, landlock, seccomp",
                False,
                f"{sys.platform} has none of them: only resource limits and an empty environment hold",
            )
        ]
    isolations: tuple[Isolation, ...] = ("full", "container", "best_effort")
    return layers + [_whole(isolation) for isolation in isolations]


def _single_layers() -> list[Layer]:
    command = [sys.executable, *worker_command("probing", "")]
    answer = subprocess.run(  # noqa: S603 - the arguments are all our own
        command, env={}, capture_output=True, text=True, timeout=60, cwd=os.sep
    )
    try:
        return [Layer(*row) for row in json.loads(answer.stdout)]
    except ValueError:
        return [Layer("probes", False, answer.stderr.strip().rpartition("\n")[2] or "no answer")]


def _whole(isolation: Isolation) -> Layer:
    name = f"isolation={isolation!r}"
    try:
        with Pool(isolation=isolation) as pool:
            result = pool.run(_ESCAPES)
            layers = ", ".join(pool.layers) or "resource limits only"
    except SandboxUnavailable as error:
        return Layer(name, False, str(error))
    held = result.stdout.strip() == "True"
    return Layer(
        name, held, f"{layers}: {'four escapes refused' if held else f'an escape was not refused ({result.status})'}"
    )
