"""The tasks of code execution: what to print and a program that prints it, with random values for each episode."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from string import Template
from typing import Any

import numpy as np

from llm_gym.games.code.drawing import VALUES, fill, pick


@dataclass(frozen=True)
class CodeTask:
    """One task with its values.

    Attributes:
        prompt: What to do, in one line.
        program: A program that does it.
    """

    prompt: str
    program: str


# fmt: off
LEVELS: dict[str, tuple[tuple[str, str], ...]] = {
    "easy": (
        ("Print the sum of $a and $b.", "print($a + $b)"),
        ("Print the product of $a and $b.", "print($a * $b)"),
        ("Print the remainder of $b divided by $a.", "print($b % $a)"),
        ("Print the word $word $small times, with nothing between.", 'print("$word" * $small)'),
        ("Print the words $word and $other, joined by a dash.", 'print("$word-$other")'),
        ("Print the word $word in capitals, then the number $a on a new line.", 'print("$word".upper())\nprint($a)'),
        ("Print the words $word and $other backwards, one a line.", 'print("$word"[::-1])\nprint("$other"[::-1])'),
        ("Print the whole numbers from $a to $b, one a line.", "for n in range($a, $b + 1):\n    print(n)"),
        ("Print how many letters $word and $other have together.", 'print(len("$word" + "$other"))'),
        ("Print every second letter of $word$other, beginning with the first.", 'print("$word$other"[::2])'),
        ("Print $b to the power of $small.", "print($b ** $small)"),
    ),
    "medium": (
        ("Print the sum of the multiples of $a below $b.", "print(sum(range(0, $b, $a)))"),
        ("Print the first $a Fibonacci numbers, from 0 and 1 on, one a line.",
         "x, y = 0, 1\nfor _ in range($a):\n    print(x)\n    x, y = y, x + y"),
        ("Print all divisors of $b, smallest first, on one line with spaces between.",
         "print(*[n for n in range(1, $b + 1) if $b % n == 0])"),
        ("Print $b in base $small, most significant digit first, digits with spaces between.",
         "n, digits = $b, []\nwhile n:\n    digits.append(n % $small)\n    n //= $small\nprint(*reversed(digits))"),
        ("Print the sum of the decimal digits of $a to the power of $b.", "print(sum(map(int, str($a ** $b))))"),
        ("Print each letter that occurs in $word or in $other once, in alphabetical order, with nothing between.",
         'print("".join(sorted(set("$word$other"))))'),
        ("Print how many vowels (a, e, i, o, u) $word$other$word has.",
         'print(sum(letter in "aeiou" for letter in "$word$other$word"))'),
        ("Print the greatest common divisor of $a$small and $b.", "from math import gcd\nprint(gcd($a$small, $b))"),
        ("Print the multiples 1 to $small of $a, one a line, like: 1 x $a = $a.",
         'for n in range(1, $small + 1):\n    print(f"{n} x $a = {n * $a}")'),
        ("Print the whole numbers from $b down to $small that end in 7, one a line.",
         "for n in range($b, $small - 1, -1):\n    if n % 10 == 7:\n        print(n)"),
        ("Print a square of $small lines, each $small times the first letter of $word.",
         'for _ in range($small):\n    print("$word"[0] * $small)'),
    ),
    "hard": (
        ("Print the prime numbers from $a to $b, on one line with spaces between.",
         "print(*[n for n in range($a, $b + 1) if all(n % d for d in range(2, int(n ** 0.5) + 1))])"),
        ("Print how many steps the Collatz sequence takes from $b to 1 (halve if even, else triple and add 1).",
         "n, steps = $b, 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nprint(steps)"),
        ("Print the word $word$other with each letter moved $small places on in the alphabet, z going on with a.",
         'print("".join(chr((ord(c) - 97 + $small) % 26 + 97) for c in "$word$other"))'),
        ("Print the rows 0 to $small of Pascal's triangle, numbers with spaces between.",
         "row = [1]\nfor _ in range($small + 1):\n    print(*row)\n"
         "    row = [1, *[x + y for x, y in zip(row, row[1:])], 1]"),
        ("Print each letter of $word$other once, in alphabetical order, and how often it occurs, one a line: a 2",
         'for letter in sorted(set("$word$other")):\n    print(letter, "$word$other".count(letter))'),
        ("For 1 to $b print the number, but $word for multiples of $small and $other for the other multiples of 7.",
         'for n in range(1, $b + 1):\n'
         '    print("$word" if n % $small == 0 else "$other" if n % 7 == 0 else n)'),
        ("Print the Roman numeral of $b.",
         'n, numeral, values = $b, "", (100, 90, 50, 40, 10, 9, 5, 4, 1)\n'
         'for value, sign in zip(values, "C XC L XL X IX V IV I".split()):\n'
         "    while n >= value:\n        numeral, n = numeral + sign, n - value\nprint(numeral)"),
        ("Print all pairs x y with x <= y, both from 1 to $b, whose squares add up to a square, one pair a line.",
         "squares = {n * n for n in range(1, 2 * $b)}\nfor x in range(1, $b + 1):\n    for y in range(x, $b + 1):\n"
         "        if x * x + y * y in squares:\n            print(x, y)"),
        ("Print in how many ways coins of 1, $a and 60 pay $b.",
         "ways = [1] + [0] * $b\nfor coin in (1, $a, 60):\n    for n in range(coin, $b + 1):\n"
         "        ways[n] += ways[n - coin]\nprint(ways[$b])"),
        ("Print $b to the power of $a modulo ${a}1, then how many decimal digits $b to the power of $a has.",
         "print(pow($b, $a, ${a}1))\nprint(len(str($b ** $a)))"),
        ("Print a matrix of $small rows and columns: row i, column j holds (i * j + $a) % $b; i and j count from 0.",
         "for i in range($small):\n    print(*[(i * j + $a) % $b for j in range($small)])"),
    ),
}
# fmt: on
"""Difficulty -> prompts and their programs."""


def draw_task(difficulty: str, rng: np.random.Generator) -> CodeTask:
    """A random task of that difficulty; ``all`` stands for any."""
    level = list(LEVELS)[pick(len(LEVELS), rng)] if difficulty == "all" else difficulty
    prompt, program = LEVELS[level][pick(len(LEVELS[level]), rng)]
    values = fill(prompt, rng)
    return CodeTask(Template(prompt).substitute(values), Template(program).substitute(values))


@functools.lru_cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    found = []
    for prompt, program in (pair for level in LEVELS.values() for pair in level):
        pattern, seen = "", set()
        for part in re.split(r"(\$\w+|\$\{\w+\})", prompt):
            name = part.strip("${}") if part.startswith("$") else ""
            if not name:
                pattern += re.escape(part)
            else:
                pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{_kind(name)})"
            seen.add(name)
        found.append((re.compile(pattern), program))
    return found


def _kind(name: str) -> str:
    return "|".join(sorted(map(str, VALUES[name]), key=len, reverse=True))


def solve(prompt: str) -> str:
    """The program for a ``prompt`` of :func:`draw_task`.

    Raises:
        ValueError: The prompt is none of these tasks.
    """
    for pattern, program in _patterns():
        found = pattern.fullmatch(prompt)
        if found:
            return Template(program).substitute(found.groupdict())
    raise ValueError(f"no task of code execution: {prompt[:80]!r}")


def reference(observation: str, info: dict[str, Any], rng: np.random.Generator | None = None) -> str:
    """A scripted player: a program that does the task in the observation."""
    return solve(observation.splitlines()[0])
