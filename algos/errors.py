"""Errors that a user sees as one line."""

from __future__ import annotations

import sys
from typing import NoReturn


class ConfigError(Exception):
    """A setting is wrong; the message is one line that says which, how, and what would be right."""


def die(error: Exception | str) -> NoReturn:
    """Ends the program with one line and exit status 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
