"""Scripted players of the Password Game. They read what a player reads: the observation."""

from __future__ import annotations

import re
import string
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from llm_gym.games.password.rules import (
    AFFIRMATIONS,
    ATOMIC_NUMBER,
    BUG,
    EGG,
    LIFTER,
    MONTHS,
    ROMAN,
    SPONSORS,
    atomic_sum,
    digit_sum,
    has_consecutive_letters,
    has_leap_year,
    is_prime,
)

LONGEST = 200
SHARE_OF_RULES = 0.45
"""Share of the rules that the sampler tries to keep. With those that hold by chance, about half are kept."""
_RULE = re.compile(r"^(\d+)(?: ok| failed)?: (.+)$", re.MULTILINE)
_RUNS = [string.ascii_lowercase[i : i + 3] for i in range(24)]
# Two-letter symbols without a Roman numeral: next to each other, or after one, they form no further symbol.
_PLAIN_SYMBOLS = [symbol for symbol in ATOMIC_NUMBER if len(symbol) == 2 and symbol[0] not in ROMAN]
_PAIRS = [*_PLAIN_SYMBOLS, *map("".join, combinations(_PLAIN_SYMBOLS, 2))]


def solver(observation: str, info: dict[str, Any], rng: np.random.Generator | None = None) -> str:
    """A password that keeps every rule in the observation. It is deterministic."""
    return compose(read_rules(observation))


def sampler(observation: str, info: dict[str, Any], rng: np.random.Generator) -> str:
    """A weak player: a password for a random part of the rules in the observation. It keeps about half of the rules."""
    rules = read_rules(observation)
    return compose({number: text for number, text in rules.items() if rng.random() < SHARE_OF_RULES})


def read_rules(observation: str) -> dict[int, str]:
    """Number of each rule in the observation -> its text after the last colon, where a secret would be."""
    return {int(rule[1]): rule[2].rpartition(": ")[2] for rule in _RULE.finditer(observation)}


def compose(rules: dict[int, str]) -> str:
    """A password that keeps ``rules`` (from :func:`read_rules`), and perhaps others."""
    banned = set(rules.get(20, "")) - {" "}
    body = _words(rules, banned)
    body += _capitals(rules, banned, body)
    if 3 in rules and all(map(str.isalnum, body)):
        body += "-"
    return _fit(rules, body)


def _pick(options: tuple[str, ...] | list[str], banned: set[str]) -> str:
    return next((option for option in sorted(options, key=len) if banned.isdisjoint(option.lower())), options[0])


def _words(rules: dict[int, str], banned: set[str]) -> str:
    """The lower-case words and emoji, overlapping where they can: ``pepsi am loved``."""
    choices = {5: MONTHS, 7: SPONSORS, 18: AFFIRMATIONS}
    fixed = {15: EGG, 17: LIFTER * 3, 19: BUG * 3}
    body = ""
    for number in (5, 7, 18, 9, 10, 13, 12, 15, 17, 19, 21):
        if number in rules:
            word = _pick(choices[number], banned) if number in choices else fixed.get(number, rules[number])
            shared = next(n for n in range(len(word), -1, -1) if body.endswith(word[:n]))
            body += word[shared:]
    if 25 in rules and not has_consecutive_letters(body):
        body += _pick(_RUNS, banned)
    return body


def _capitals(rules: dict[int, str], banned: set[str], body: str) -> str:
    """Roman numerals and chemical symbols, each symbol ended by the next capital, a digit or a dash."""
    capitals = ""
    if 8 in rules:
        capitals += _pick(["XXXV", "V-VII"], banned)
    elif 6 in rules:
        capitals += "X"
    if 16 in rules:
        capitals += _pick(_symbols_adding_up_to(200 - atomic_sum(body + capitals)), banned)
    elif 11 in rules:
        capitals += _pick(["He", "Ag"], banned)
    elif 2 in rules and not capitals:
        capitals = "A"
    return capitals


@lru_cache
def _symbols_adding_up_to(total: int) -> list[str]:
    return [word for word in _PAIRS if atomic_sum(word) == total] or [""]


def _fit(rules: dict[int, str], body: str) -> str:
    """Adds digits and dashes that make the digit sum, the leap year and the length correct."""
    for length in range(5 if 0 in rules else 0, LONGEST):
        for year in ("", "2000") if 14 in rules else ("",):
            password = _with_digits(rules, body, year, length).ljust(length, "-")
            if (
                (len(password) == length or not {22, 23} & set(rules))
                and (4 not in rules or digit_sum(password) == 25)
                and (14 not in rules or has_leap_year(password))
                and (23 not in rules or is_prime(length))
            ):
                return password
    return body


def _with_digits(rules: dict[int, str], body: str, year: str, length: int) -> str:
    text = body + year + (str(length) if 22 in rules else "")
    if 4 in rules:
        nines, rest = divmod(max(25 - digit_sum(text), 0), 9)
        text += "9" * nines + (str(rest) if rest else "")
    elif 1 in rules and digit_sum(text) == 0:
        text += "1"
    return text
