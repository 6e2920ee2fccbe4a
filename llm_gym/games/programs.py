"""What the games share in which players write programs: running them, showing what they print, and breaking them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import get_args

import numpy as np

from llm_gym.sandbox import Grade, Isolation, Limits, Result, run, run_tests, shared_pool

MOST_SHOWN = 2000
"""Characters of a program's output that are kept."""
_WORD = re.compile(r"[A-Za-z_]\w+")
_NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Judge:
    """How programs are run. The sandbox itself belongs to the process: copies and pickles of a judge share it.

    Args:
        timeout_s: Seconds by the clock after which a program is ended.
        isolation: ``full``, ``container`` or ``best_effort``, as in :class:`llm_gym.sandbox.Pool`.

    Raises:
        ValueError: A setting is none of the above.
    """

    timeout_s: float
    isolation: Isolation

    def __post_init__(self) -> None:
        seconds = self.timeout_s
        if type(seconds) not in (int, float) or not 0 < seconds < math.inf:
            raise ValueError(f"timeout_s must be a number of seconds above 0, not {seconds!r}")
        if self.isolation not in get_args(Isolation):
            raise ValueError(f"isolation must be one of {', '.join(get_args(Isolation))}, not {self.isolation!r}")

    def start(self) -> None:
        """Starts this process's sandbox, if it has none yet.

        Raises:
            SandboxUnavailable: The isolation cannot be had here; one line says what is missing.
        """
        _ = shared_pool(self.isolation).layers

    def run(self, program: str, stdin: str = "", hash_seed: int | None = None) -> Result:
        """Runs one program."""
        return run(program, stdin, Limits(wall_s=self.timeout_s), self.isolation, hash_seed)

    def grade(self, solution: str, tests: tuple[str, ...], imports: str, setup: str) -> Grade:
        """Runs one solution and all its tests, in one process."""
        limits = Limits(wall_s=self.timeout_s)
        return run_tests(solution, tests, imports, setup, limits=limits, isolation=self.isolation)


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of ``text`` as an observation shows it: characters that do not print become U+FFFD."""
    seen = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text[:most])
    return seen if len(text) <= most else f"{seen} ... ({len(text):,} characters in all)"


def fenced(program: str) -> str:
    """A program within an observation."""
    return f"```python\n{program}\n```"


def pick(options: int, rng: np.random.Generator) -> int:
    """A random number below ``options``."""
    return int(rng.random() * options)


def broken(program: str, rng: np.random.Generator) -> str:
    """``program`` with one random fault of those that beginners make."""
    return _FAULTS[pick(len(_FAULTS), rng)](program, rng)


def _without_last_line(program: str, rng: np.random.Generator) -> str:
    return "\n".join(program.splitlines()[:-1])


def _without_a_bracket(program: str, rng: np.random.Generator) -> str:
    places = [place for place, char in enumerate(program) if char in ")]"]
    place = places[pick(len(places), rng)] if places else 0
    return program[:place] + program[place + 1 :]


def _with_a_bad_indent(program: str, rng: np.random.Generator) -> str:
    lines = program.splitlines()
    row = pick(len(lines), rng)
    return "\n".join([*lines[:row], " " + lines[row], *lines[row + 1 :]]) if lines else " "


def _misspelt(program: str, rng: np.random.Generator) -> str:
    words = list(_WORD.finditer(program))
    return program[: (end := words[pick(len(words), rng)].end()) - 1] + program[end:] if words else program


def _off_by_one(program: str, rng: np.random.Generator) -> str:
    numbers = list(_NUMBER.finditer(program))
    if not numbers:
        return _without_last_line(program, rng)
    number = numbers[pick(len(numbers), rng)]
    return f"{program[: number.start()]}{int(number[0]) + 1}{program[number.end() :]}"


_FAULTS = (_without_last_line, _without_a_bracket, _with_a_bad_indent, _misspelt, _off_by_one)
