"""The page's templates, and how values are written in them: whatever a run holds is text there, and only text."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from algos.run_folder.read import Json, evaluation, is_number, triple

TEXT_LIMIT, GAME_LIMIT = 4_000, 60_000
"""Characters shown of one message, and of one game's messages."""

COLOURS = dict.fromkeys(("win", "solved", "ok"), "good") | {"draw": "even"}
COLOURS |= dict.fromkeys(("loss", "failed", "malformed"), "bad")
COLOURS |= dict.fromkeys(("invalid", "illegal"), "broken") | {"truncated": "cut"}
"""The class of each outcome and parse in the page's stylesheet, in the order in which they are listed."""

WORDS = {"win": "won", "draw": "drawn", "loss": "lost", "invalid": "ended by an invalid reply"}
WORDS |= {"truncated": "cut short by a limit"}

UNSEEN_RANGES = (
    *((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E), (0x200B, 0x200B)),
    *((0x200E, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0xFFFE, 0xFFFF)),
    *((0xD800, 0xDFFF), (0xE0000, 0xE007F)),
)
"""Controls, marks that reorder text, invisible characters and lone surrogates: shown by number.

Joiners stay, because emoji and several scripts need them.
"""
UNSEEN = re.compile("([" + "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in UNSEEN_RANGES) + r"])\1*")


def text(value: object, limit: int = TEXT_LIMIT) -> Markup:
    """Any value as HTML text: escaped, unseen characters by their number, cut with a note after ``limit``."""
    if isinstance(value, Markup):
        return value
    whole = str(value)
    shown, rest = UNSEEN.sub(_by_number, escape(whole[:limit])), len(whole) - limit
    note = f"<br><em>... and {rest:,} more characters, left out here</em>" if rest > 0 else ""
    return Markup(shown + note)  # noqa: S704 - `whole` is escaped


def _by_number(match: re.Match[str]) -> str:
    times = len(match[0])
    return f"<mark>U+{ord(match[1]):04X}{f' x {times:,}' if times > 1 else ''}</mark>"


def signed(value: Any) -> Markup:
    """A return or an advantage."""
    return text(f"{round(value, 3):+g}" if is_number(value) else value, 40)


def written(key: str, value: float) -> str:
    """A value of an evaluation as its table shows it."""
    return f"{value:.1%}" if is_rate(key) else f"{value:+.3f}" if key == "mean_return" else f"{value:,.4g}"


def number(value: float, percent: bool = False) -> str:
    """A value in per cent, or with four digits."""
    return f"{value:.1%}" if percent else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def is_rate(key: str) -> bool:
    return key.endswith("_rate") or key.startswith("pass_at_")


def first_turns(episode: Json) -> tuple[list[Json], int]:
    """The turns of an episode up to the one that exceeds :data:`GAME_LIMIT`, and how many more there are."""
    turns = [turn for turn in episode.get("turns") or [] if isinstance(turn, dict)]
    sizes = [sum(min(len(str(turn.get(k))), TEXT_LIMIT) for k in ("observation", "reply")) for turn in turns]
    shown = turns[: bisect_right(list(accumulate(sizes)), GAME_LIMIT) + 1]
    return shown, len(turns) - len(shown)


# Every value that a template shows goes through `text`, whether the template says so or not.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=text,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"text": text, "signed": signed, "number": number}
TEMPLATES.filters |= {"px": "{:.1f}".format, "percent": "{:.1%}".format, "grouped": "{:,}".format}
TEMPLATES.globals |= {"COLOURS": COLOURS, "WORDS": WORDS, "evaluation": evaluation, "first_turns": first_turns}
TEMPLATES.globals |= {"is_number": is_number, "triple": triple, "written": written}
