"""The programs' /tmp between two programs: whether it was touched, and how it is emptied."""

from __future__ import annotations

import os
import stat


def traces(folder: str) -> tuple[int, ...]:
    """All that a program could have changed about the folder: a tmpfs counts a folder's entries in its size."""
    seen = os.stat(folder)
    return seen.st_mode, seen.st_nlink, seen.st_size, seen.st_atime_ns, seen.st_mtime_ns


def wipe(folder: str) -> None:
    """Empty the folder and set it right, however deep, wide, odd or locked what a program left in it is.

    It steps down and up one folder at a time: no path is built that could be too long, no descriptor held a level.
    """
    os.chmod(folder, 0o700)
    os.chdir(folder)
    names: list[bytes] = []
    while True:
        below = _remove_files_here()
        if below is not None:
            os.chmod(below, 0o700)
            os.chdir(below)
            names.append(below)
        elif names:
            os.chdir(b"..")
            os.rmdir(names.pop())
        else:
            break
    os.utime(folder, (0, 0))


def _remove_files_here() -> bytes | None:
    """Remove all but folders from the working directory; returns the name of a folder in it, if there is one."""
    below = None
    for name in os.listdir(b"."):
        if stat.S_ISDIR(os.lstat(name).st_mode):
            below = name
        else:
            os.unlink(name)
    return below
