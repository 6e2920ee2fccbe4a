"""Games of a run as HTML: the conversations they were. Whatever was said in them is text, and only text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from algos.run_folder.read import Game, Json, Run, is_number, pick_games

TEXT_LIMIT, GAME_LIMIT = 4_000, 60_000
"""Characters shown of one message, and of one game's HTML."""

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


def text(value: object, limit: int = TEXT_LIMIT) -> str:
    """Any string as HTML text: escaped, unseen characters by their number, cut with a note after ``limit``."""
    whole = str(value)
    shown, rest = UNSEEN.sub(_by_number, escape(whole[:limit])), len(whole) - limit
    return shown if rest <= 0 else f"{shown}<br><em>... and {rest:,} more characters, left out here</em>"


def _by_number(match: re.Match[str]) -> str:
    times = len(match[0])
    return f"<mark>U+{ord(match[1]):04X}{f' x {times:,}' if times > 1 else ''}</mark>"


def games(runs: Sequence[Run]) -> str:
    """Three games of the first run that has any, as the conversations they were."""
    for run in runs:
        picked = pick_games(run.folder)
        if picked:
            whose = f" of {text(run.folder)}" if len(runs) > 1 else ""
            shown = "".join(_game(game, is_open=game is picked[0]) for game in picked)
            return f'<section id="games"><h2>Games to read{whose}</h2>{shown}</section>'
    return '<section id="games"><h2>Games to read</h2><p>No game has been written yet.</p></section>'


def _game(game: Game, is_open: bool) -> str:
    episode, outcome = game.episode, str(game.episode.get("outcome"))
    turns = [turn for turn in episode.get("turns") or [] if isinstance(turn, dict)]
    facts = [f"seat {text(episode.get('player'), 40)}", f"{len(turns)} {'reply' if len(turns) == 1 else 'replies'}"]
    facts += [f"{name} {_signed(episode.get(name))}" for name in ("return", "advantage")]
    terms = episode.get("reward_terms")
    if isinstance(terms, dict) and len(terms) > 1:
        facts.append(" and ".join(f"{text(name, 40)} {_signed(value)}" for name, value in terms.items()))
    said = [_said("rules", "Rules", episode["rules"])] if episode.get("rules") else []
    size = 0
    for count, turn in enumerate(turns, 1):
        said += [_said("game", "Game", turn.get("observation")), _reply(count, turn, episode.get("advantage"))]
        size += len(said[-1]) + len(said[-2])
        if size > GAME_LIMIT and count < len(turns):
            said.append(f"<p>{len(turns) - count} more replies are left out here.</p>")
            break
    said.append(_said("game", "Game, at the end", episode.get("last_observation")))
    where = f"episodes/step_{game.step:06d}.jsonl, line {game.line}; seed {text(episode.get('seed'))}"
    return f"""<details{" open" if is_open else ""}>
<summary>Step {game.step:,}: <b class="{COLOURS.get(outcome, "even")}">{text(WORDS.get(outcome, outcome))}</b>
<span>{"; ".join(facts)}</span></summary>
<div class="chat">{"".join(said)}<p>{where}</p></div></details>
"""


def _reply(count: int, turn: Json, advantage: Any) -> str:
    parse = str(turn.get("parse"))
    head = f'Reply {count}: <b class="{COLOURS.get(parse, "even")}">{text(parse)}</b>, '
    head += f"reward {_signed(turn.get('reward'))}, advantage {_signed(turn.get('advantage', advantage))}, "
    head += f"{len(turn.get('action_ids') or [])} tokens"
    return _said("reply", head + ", cut at the limit" * (turn.get("stop_reason") == "length"), turn.get("reply"))


def _said(role: str, head: str, what: Any) -> str:
    return f'<div class="{role}"><p>{head}</p><pre>{text(what or "") or "<em>(empty)</em>"}</pre></div>'


def _signed(value: Any) -> str:
    return f"{round(value, 3):+g}" if is_number(value) else text(value, 40)
