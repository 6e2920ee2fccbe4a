"""Scripted players of the prediction game, for both seats. They read only what a player reads."""

from __future__ import annotations

import re
from string import Template
from typing import Any

import numpy as np

from llm_gym.games.code.drawing import broken, fill, pick
from llm_gym.sandbox import run

SHARE_BROKEN = 0.3
_PROGRAM = re.compile(r"^```python\n(.*)\n```$", re.MULTILINE | re.DOTALL)
_LITERAL = re.compile(r"\d+|\"(\w+)\"")

PUZZLES = (
    "print($a + $b)",
    "print($a * $small - $b)",
    'print(len("$word") + $a)',
    'print("$word"[::-1])',
    "x = $a\ny = x * $small\nprint(y - x)",
    'word = "$word"\nprint(word[1:4] + word[-1])',
    "numbers = [$a, $b, $small]\nprint(sorted(numbers))",
    "x = $b\nif x % $small == 0:\n    x = x // $small\nprint(x + $a)",
    "total = 0\nfor n in range($small):\n    total += n * n\nprint(total)",
    'letters = sorted(set("$word$other"))\nprint("".join(letters[:$small]))',
    "x = $a\nfor n in range($small):\n    x = (x * 3 + n) % $b\nprint(x)",
    "def f(n):\n    if n < 2:\n        return n\n    return f(n - 1) + f(n - 2)\nprint(f($small))",
    "numbers = [n * $small % $a for n in range(8)]\nprint(max(numbers), sum(numbers))",
    "n = $b\nsteps = 0\nwhile n > 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nprint(steps)",
    'counts = {}\nfor letter in "$word$other":\n    counts[letter] = counts.get(letter, 0) + 1\n'
    "print(max(counts.values()), len(counts))",
)
"""Templates of programs, the easy ones first."""


def reference(observation: str, info: dict[str, Any], rng: np.random.Generator) -> str:
    """As generator writes a random fair program; as predictor runs the program."""
    if info["player"] == 0:
        puzzle = PUZZLES[pick(len(PUZZLES), rng)]
        return Template(puzzle).substitute(fill(puzzle, rng))
    # The game has just run this program under its own isolation, which best effort matches on the same machine.
    return run(_shown_program(observation), isolation="best_effort", hash_seed=1).stdout.strip()


def sampler(observation: str, info: dict[str, Any], rng: np.random.Generator) -> str:
    """A weak player. As generator it breaks three programs in ten; as predictor it does worse on longer programs.

    It is right about every program of one line, half of those of two lines, a third of those of three, and so on.
    """
    if info["player"] == 0:
        program = reference(observation, info, rng)
        return broken(program, rng) if rng.random() < SHARE_BROKEN else program
    program = _shown_program(observation)
    if rng.random() < 1 / len(program.strip().splitlines()):
        return reference(observation, info, rng)
    literals = [found[1] or found[0] for found in _LITERAL.finditer(program)] or ["0"]
    return literals[pick(len(literals), rng)]


def _shown_program(observation: str) -> str:
    found = _PROGRAM.search(observation)
    assert found is not None, "a predictor is always shown a program"
    return found[1]
