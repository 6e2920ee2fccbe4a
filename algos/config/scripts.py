"""The trainers: every script in the folder `algos`. A new one needs no registration."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def scripts() -> dict[str, Path]:
    """Name -> file, in alphabetical order."""
    files = sorted(Path(__file__).parents[1].glob("*.py"))
    return {file.stem: file for file in files if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")}


def script_of(sections: Collection[str]) -> str | None:
    """The script that a file with these sections is for: the one whose own section it has.

    ``sft`` is also the warm start's section of the others, so another one is preferred to it.
    """
    found = [name for name in scripts() if name in sections]
    return min(found, key=lambda name: name == "sft", default=None)
