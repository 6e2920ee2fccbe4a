"""The 26 rules of the Password Game, and the secrets that an episode draws for them."""

from __future__ import annotations

import re
import string
import unicodedata
from calendar import isleap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt, prod

import numpy as np

from llm_gym.games.password.words import COUNTRIES, WORDLE

MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july"),
    *("august", "september", "october", "november", "december"),
)
SPONSORS = ("pepsi", "starbucks", "shell")
AFFIRMATIONS = ("i am loved", "i am worthy", "i am enough")
MOONS = "🌑🌒🌓🌔🌕🌖🌗🌘"
COLOURS = ("#008000", "#009000", "#00a000", "#00b000")
EGG, LIFTER, BUG = "🥚", "🏋", "🐛"
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
SYMBOLS = (  # noqa: SIM905 - words read better than a list of quoted words
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv "
    "Ts Og"
).split()
ATOMIC_NUMBER = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}

# Every colour and one sponsor, affirmation, month and Roman 35 (pepsi, i am loved, may, XXXV) always stay possible.
SACRIFICEABLE = "cfghjknqrtuwz"
# Captcha digits this small leave room for the other digits within the sum of 25, whatever else is drawn.
CAPTCHA_DIGITS = "0123"


@dataclass(frozen=True)
class Secrets:
    """What differs from episode to episode. Each is shown in its rule's text.

    Attributes:
        captcha: Three lower-case letters and two digits, in any order.
        wordle: A five-letter word.
        moon: One of the eight moon phases as an emoji.
        country: A country's name, lower-case.
        sacrifice: Two letters that must not occur.
        colour: A green, such as ``#00a000``.
    """

    captcha: str
    wordle: str
    moon: str
    country: str
    sacrifice: str
    colour: str


def draw_secrets(rng: np.random.Generator) -> Secrets:
    """Secrets under which all 26 rules can hold together."""
    chances = iter(rng.random(13).tolist())

    def draw(options: list[str]) -> str:
        return options.pop(int(next(chances) * len(options)))

    wordle, country = draw(WORDLE[:]), draw(COUNTRIES[:])
    spare = [letter for letter in SACRIFICEABLE if letter not in wordle and letter not in country]
    sacrifice = draw(spare) + draw(spare)
    letters = [letter for letter in string.ascii_lowercase if letter not in sacrifice]
    parts = [draw(letters) for _ in range(3)]
    for digit in (draw(list(CAPTCHA_DIGITS)), draw(list(CAPTCHA_DIGITS))):
        parts.insert(int(next(chances) * (len(parts) + 1)), digit)
    return Secrets("".join(parts), wordle, draw(list(MOONS)), country, sacrifice, draw(list(COLOURS)))


def digit_sum(text: str) -> int:
    """The sum of the decimal digits, of any script. A superscript is not a decimal digit."""
    return sum(unicodedata.decimal(char) for char in text if char.isdecimal())


def roman_value(numeral: str) -> int:
    """The value of a numeral. A symbol before a larger one is subtracted: XXXV and VXL are 35."""
    values = [ROMAN[char] for char in numeral]
    return sum(-value if value < after else value for value, after in zip(values, [*values[1:], 0]))


def romans_multiply_to(product: int, text: str) -> bool:
    numerals = re.findall("[IVXLCDM]+", text)
    return bool(numerals) and prod(map(roman_value, numerals)) == product


def has_leap_year(text: str) -> bool:
    """Whether any four digits in a row are a Gregorian leap year; 0080 is one."""
    return any(isleap(int(year)) for year in re.findall(r"(?=(\d{4}))", text))


def atomic_sum(text: str) -> int:
    """Each element counts once if its symbol occurs, case-exact: ``He`` holds H and He, 3 in all."""
    return sum(number for symbol, number in ATOMIC_NUMBER.items() if symbol in text)


def has_two_letter_symbol(text: str) -> bool:
    return any(pair in ATOMIC_NUMBER for pair in map("".join, pairwise(text)))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def has_consecutive_letters(lower: str) -> bool:
    return any(run in string.ascii_lowercase for run in map("".join, zip(lower, lower[1:], lower[2:])))


Check = Callable[[str, str, Secrets], bool]
"""Password, lower-cased password, the episode's secrets -> whether the rule holds."""


@dataclass(frozen=True)
class Rule:
    """One rule: its text, with a placeholder for the episode's secret, and its check."""

    text: str
    holds: Check


RULES: tuple[Rule, ...] = (
    Rule("at least 5 characters", lambda p, low, s: len(p) >= 5),
    Rule("a number", lambda p, low, s: any(map(str.isdigit, p))),
    Rule("an uppercase letter", lambda p, low, s: any(map(str.isupper, p))),
    Rule("a special character, neither letter nor digit", lambda p, low, s: not all(map(str.isalnum, p))),
    Rule("the digits add up to 25", lambda p, low, s: digit_sum(p) == 25),
    Rule("a month of the year", lambda p, low, s: any(month in low for month in MONTHS)),
    Rule("a Roman numeral in capitals", lambda p, low, s: any(char in ROMAN for char in p)),
    Rule("a sponsor: pepsi, starbucks or shell", lambda p, low, s: any(name in low for name in SPONSORS)),
    Rule("the Roman numerals multiply to 35", lambda p, low, s: romans_multiply_to(35, p)),
    Rule("this CAPTCHA: {captcha}", lambda p, low, s: s.captcha in low),
    Rule("today's Wordle answer: {wordle}", lambda p, low, s: s.wordle in low),
    Rule("a chemical symbol of two letters, like He", lambda p, low, s: has_two_letter_symbol(p)),
    Rule("the moon phase: {moon}", lambda p, low, s: s.moon in p),
    Rule("this country: {country}", lambda p, low, s: s.country in low),
    Rule("a leap year in four digits", lambda p, low, s: has_leap_year(p)),
    Rule(f"Paul the egg: {EGG}", lambda p, low, s: EGG in p),
    Rule(
        "the atomic numbers of the chemical symbols in it, each counted once, add up to 200",
        lambda p, low, s: atomic_sum(p) == 200,
    ),
    Rule(f"it is not strong enough: three {LIFTER}", lambda p, low, s: p.count(LIFTER) >= 3),
    Rule(
        "an affirmation: i am loved, i am worthy or i am enough",
        lambda p, low, s: any(words in low for words in AFFIRMATIONS),
    ),
    Rule(f"food for Paul: exactly three {BUG}", lambda p, low, s: p.count(BUG) == 3),
    Rule(
        "a sacrifice: neither of these two letters: {sacrifice}",
        lambda p, low, s: not any(c in low for c in s.sacrifice),
    ),
    Rule("this colour: {colour}", lambda p, low, s: s.colour in low),
    Rule("the length of the password", lambda p, low, s: str(len(p)) in p),
    Rule("its length is a prime number", lambda p, low, s: is_prime(len(p))),
    Rule("nothing, skip this one", lambda p, low, s: True),
    Rule("three consecutive letters, like abc", lambda p, low, s: has_consecutive_letters(low)),
)


def rule_texts(secrets: Secrets, first: int = 0, end: int = len(RULES)) -> list[str]:
    """The texts of rules ``first`` to ``end - 1`` in an episode with these secrets."""
    return [rule.text.format_map(vars(secrets)) for rule in RULES[first:end]]


def check(password: str, secrets: Secrets, shown: int = len(RULES)) -> list[bool]:
    """Whether each of the first ``shown`` rules holds."""
    lower = password.lower()
    return [rule.holds(password, lower, secrets) for rule in RULES[:shown]]
