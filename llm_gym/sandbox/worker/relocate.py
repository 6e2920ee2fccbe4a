"""Restarts a server whose Python or packages lie in the machine's /tmp, which the programs' own /tmp would hide."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from llm_gym.sandbox.worker import isolate, kernel

# Python hardly ever needs these. For such a server, and no other process, the machine's /tmp is mounted on one of them.
_SPARE_FOLDERS = ("/media", "/srv", "/mnt", "/boot", "/opt", "/home")


def leave_tmp(settings: dict[str, Any], control: int) -> None:
    """Return if Python needs nothing in /tmp. Otherwise replace this process by the same server, started elsewhere.

    The new interpreter runs in a mount namespace in which the machine's /tmp is mounted a second time, on a spare
    folder, and it gets every path as it reads there. Such a path stays valid when a tmpfs takes the place of /tmp.

    Args:
        settings: As for `server.main`.
        control: The descriptor of the connection to the pool.

    Raises:
        LayerMissing: The kernel refuses the mount, or no spare folder is left.
    """
    needed = isolate.visible_paths()
    if any(name.partition(".")[0] not in sys.stdlib_module_names for name in settings["preload"]):
        needed += settings["search"]
    if settings.get("left_tmp") or not any(map(_in_tmp, needed)):
        return
    spare = _spare_folder(needed)
    with isolate.layer(isolate.NAMESPACES):
        isolate.enter_namespaces(kernel.NEWNS)
        kernel.mount(None, "/", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.attach(kernel.detached_copy(isolate.TEMPORARY), spare)

    def moved(path: str) -> str:
        return spare + path[len(isolate.TEMPORARY) :] if _in_tmp(path) else path

    inherited = os.dup(control)
    os.set_inheritable(inherited, True)
    changes = {"left_tmp": True, "control": inherited, "search": [moved(path) for path in settings["search"]]}
    arguments = [moved(sys.executable), *sys.orig_argv[1:-1], json.dumps({**settings, **changes})]
    # A virtual environment names its standard library by the path that it had when it was made.
    home = os.pathsep.join(map(moved, (sys.base_prefix, sys.base_exec_prefix)))
    os.execve(arguments[0], arguments, {**os.environ, "PYTHONHOME": home})  # noqa: S606 - our own interpreter


def _in_tmp(path: str) -> bool:
    return path.startswith(f"{isolate.TEMPORARY}/")


def _spare_folder(needed: list[str]) -> str:
    """The first spare folder that exists and holds nothing that is needed."""
    for folder in _SPARE_FOLDERS:
        used = any(path.startswith(f"{folder}/") for path in [*needed, sys.executable])
        if os.path.isdir(folder) and os.path.realpath(folder) == folder and not used:
            return folder
    raise isolate.LayerMissing(
        isolate.NAMESPACES,
        f"Python needs {next(filter(_in_tmp, needed))}, which a program's own {isolate.TEMPORARY} would hide; to mount "
        f"{isolate.TEMPORARY} elsewhere takes one of {', '.join(_SPARE_FOLDERS)} that Python does not use",
    )
