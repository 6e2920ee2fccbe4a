"""Random parts of tasks and of scripted players' programs: values for a template, faults for a program."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import numpy as np

from llm_gym.game import ScriptedPolicy

WORDS = (  # noqa: SIM905 - words read better than a list of quoted words
    "almond anchor apple banana basket beetle bottle bridge butter candle carrot castle cheese cherry coffee copper "
    "cotton dragon engine falcon feather finger forest garden ginger guitar hammer harbor hollow island jacket jungle "
    "kettle ladder lantern lemon letter lizard marble meadow mirror monkey needle nickel orange oyster paddle pebble "
    "pepper pillow planet pocket puzzle rabbit ribbon saddle salmon shadow silver spider spring summer tunnel turtle "
    "valley velvet violin walnut window winter yellow zipper"
).split()
VALUES: dict[str, Sequence[object]] = {
    "small": range(2, 13),
    "a": range(2, 60),
    "b": range(60, 400),
    "word": WORDS[: len(WORDS) // 2],
    "other": WORDS[len(WORDS) // 2 :],
}
"""The values that each ``$name`` of a template is drawn from."""
_WORD = re.compile(r"[A-Za-z_]\w+")
_NUMBER = re.compile(r"\b\d+\b")


def pick(options: int, rng: np.random.Generator) -> int:
    """A random index below ``options``."""
    return int(rng.random() * options)


def fill(text: str, rng: np.random.Generator) -> dict[str, str]:
    """Draws a value for every ``$name`` in ``text``."""
    names = sorted({found["named"] or found["braced"] for found in Template.pattern.finditer(text)})
    return {name: str(VALUES[name][pick(len(VALUES[name]), rng)]) for name in names}


@dataclass(frozen=True)
class SometimesBroken:
    """A weak player: each program of ``reference`` has a fault with probability ``share``."""

    reference: ScriptedPolicy
    share: float

    def __call__(self, observation: str, info: dict[str, Any], rng: np.random.Generator) -> str:
        program = self.reference(observation, info, rng)
        return broken(program, rng) if rng.random() < self.share else program


def broken(program: str, rng: np.random.Generator) -> str:
    """``program`` with one random fault, of the kinds that beginners make. Not every fault keeps it from running."""
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
