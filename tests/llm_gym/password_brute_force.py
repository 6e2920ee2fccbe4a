"""The rules of the Password Game written once more, apart from the game, and strings to try them on."""

from __future__ import annotations

import random
import re
import unicodedata
from itertools import groupby

from llm_gym.games.password.rules import Secrets

# By alphabet, not by number as in the package.
ELEMENTS = {
    name: int(number)
    for name, number in re.findall(
        "([A-Z][a-z]?)([0-9]+)",
        "Ac89 Ag47 Al13 Am95 Ar18 As33 At85 Au79 B5 Ba56 Be4 Bh107 Bi83 Bk97 Br35 C6 Ca20 Cd48 Ce58 Cf98 Cl17 Cm96 "
        "Cn112 Co27 Cr24 Cs55 Cu29 Db105 Ds110 Dy66 Er68 Es99 Eu63 F9 Fe26 Fl114 Fm100 Fr87 Ga31 Gd64 Ge32 H1 He2 Hf72 "
        "Hg80 Ho67 Hs108 I53 In49 Ir77 K19 Kr36 La57 Li3 Lr103 Lu71 Lv116 Mc115 Md101 Mg12 Mn25 Mo42 Mt109 N7 Na11 "
        "Nb41 Nd60 Ne10 Nh113 Ni28 No102 Np93 O8 Og118 Os76 P15 Pa91 Pb82 Pd46 Pm61 Po84 Pr59 Pt78 Pu94 Ra88 Rb37 Re75 "
        "Rf104 Rg111 Rh45 Rn86 Ru44 S16 Sb51 Sc21 Se34 Sg106 Si14 Sm62 Sn50 Sr38 Ta73 Tb65 Tc43 Te52 Th90 Ti22 Tl81 "
        "Tm69 Ts117 U92 V23 W74 Xe54 Y39 Yb70 Zn30 Zr40",
    )
}


def brute_force(password: str, secrets: Secrets) -> list[bool]:
    """The 26 rules once more, from their description alone, by loops over positions."""
    lower, n = password.lower(), len(password)
    decimals = [unicodedata.category(char) == "Nd" for char in password]
    total = sum(unicodedata.digit(char) for char, decimal in zip(password, decimals) if decimal)
    numerals = ["".join(run) for is_roman, run in groupby(password, lambda c: c in "IVXLCDM") if is_roman]
    product = 1
    for numeral in numerals:
        value, right = 0, 0
        for char in reversed(numeral):
            worth = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}[char]
            value, right = value + (worth if worth >= right else -worth), worth
        product *= value
    leap = False
    for i in range(n - 3):
        if all(decimals[i : i + 4]):
            year = sum(unicodedata.digit(char) * 10 ** (3 - j) for j, char in enumerate(password[i : i + 4]))
            leap |= year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    months = "january february march april may june july august september october november december"
    ordinals = [ord(char) if "a" <= char <= "z" else -9 * i for i, char in enumerate(lower)]
    return [
        n > 4,
        any(unicodedata.digit(char, None) is not None for char in password),
        any(char.isupper() for char in password),
        any(not char.isalpha() and unicodedata.numeric(char, None) is None for char in password),
        total == 25,
        any(lower.find(month) >= 0 for month in months.split()),
        bool(numerals),
        "pepsi" in lower or "starbucks" in lower or "shell" in lower,
        bool(numerals) and product == 35,
        secrets.captcha in lower,
        secrets.wordle in lower,
        any(password[i : i + 2] in ELEMENTS for i in range(n - 1)),
        secrets.moon in password,
        secrets.country in lower,
        leap,
        "🥚" in password,
        sum(number for symbol, number in ELEMENTS.items() if password.find(symbol) >= 0) == 200,
        len(password.split("🏋")) > 3,
        "i am loved" in lower or "i am worthy" in lower or "i am enough" in lower,
        len(password.split("🐛")) == 4,
        not set(secrets.sacrifice) & set(lower),
        secrets.colour in lower,
        password.find(str(n)) >= 0,
        n in (2, 3, 5, 7) or (n > 10 and all(n % d for d in range(2, n))),
        True,
        any(ordinals[i] + 2 == ordinals[i + 1] + 1 == ordinals[i + 2] for i in range(len(ordinals) - 2)),
    ]


FRAGMENTS = [
    *(
        "²",
        "³¹",
        "٢٥",
        "９",
        "Ⅷ",
        "½",
        "é",
        "e\u0301",
        "İ",
        "ß",
        "K",
        "ǅ",
        "\u200d",
        "🏋️‍♂️",
        "👩‍👩‍👧",
        "🥚",
        "🐛",
        "🏋",
        "\ud800",
        "\x00",
    ),
    *(
        "pepsi",
        "MAY",
        "i am Enough",
        "XXXV",
        "VII",
        "V",
        "IX",
        "He",
        "Pb",
        "Og",
        "Uu",
        "#008000",
        "2000",
        "1900",
        "٠٤٠٠",
    ),
    *("abc", "xyz", "Hij", "yza", " ", "-", "\n", "\u202e", "997A!"),
]


def random_password(rng: random.Random, secrets: Secrets, solved: str) -> str:
    """Fragments, any characters, or a full solution that was damaged in a few places."""
    pieces = [*FRAGMENTS, secrets.captcha, secrets.wordle, secrets.country.title(), secrets.moon, secrets.colour]
    kind = rng.randrange(3)
    if kind == 0:
        return "".join(rng.choice(pieces) for _ in range(rng.randrange(12)))
    if kind == 1:
        return "".join(chr(rng.randrange(rng.choice((128, 0x3000, 0x110000)))) for _ in range(rng.randrange(40)))
    chars = list(solved)
    for _ in range(rng.randrange(4)):
        i = rng.randrange(len(chars))
        chars[i : i + rng.randrange(3)] = rng.choice((chars[i].swapcase(), "", rng.choice(pieces)))
        chars = chars or ["x"]
    return "".join(chars)
