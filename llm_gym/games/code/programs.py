"""Runs and grades the programs that players write, and formats them for observations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from llm_gym.sandbox import Grade, Isolation, Limits, Result, run, run_tests, shared_pool

MOST_SHOWN = 2000
"""Characters of a program's output that are kept for observations and ``info``."""


@dataclass(frozen=True)
class Judge:
    """How a game's programs are run. All judges in a process share its sandbox, so a judge can be copied and pickled.

    Args:
        timeout_s: Wall-clock seconds after which a program is stopped.
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
            SandboxUnavailable: The isolation is not available here; one line says what is missing.
        """
        _ = shared_pool(self.isolation).layers

    def run(self, program: str, stdin: str = "", hash_seed: int | None = None) -> Result:
        """Runs one program."""
        return run(program, stdin, Limits(wall_s=self.timeout_s), self.isolation, hash_seed)

    def grade(self, solution: str, tests: tuple[str, ...], imports: str, setup: str) -> Grade:
        """Runs a solution and all its tests in one process."""
        limits = Limits(wall_s=self.timeout_s)
        return run_tests(solution, tests, imports, setup, limits=limits, isolation=self.isolation)


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of ``text`` for an observation. Characters that do not print become U+FFFD."""
    seen = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text[:most])
    return seen if len(text) <= most else f"{seen} ... ({len(text):,} characters in all)"


def fenced(program: str) -> str:
    """A program as a fenced block."""
    return f"```python\n{program}\n```"
