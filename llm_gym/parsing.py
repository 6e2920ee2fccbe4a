"""Extracts the action from a reply. The last match counts, and ``<think>`` blocks are ignored."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_THINK = re.compile(r"</?think>")
_BOX = re.compile(r"\\boxed\{|[{}]")
_TEXT_MACRO = re.compile(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_TAG = re.compile(r"<(/?)(answer|action)>")
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = {"python", "py", "python3"}


def strip_think(reply: str) -> str:
    """The reply without its thinking.

    Removes every ``<think>...</think>``, what follows an unclosed ``<think>``, and what precedes a ``</think>`` without
    ``<think>`` (some chat templates open it in the prompt).
    """
    if "think>" not in reply:
        return reply
    kept: list[str] = []
    depth = start = 0
    for tag in _THINK.finditer(reply):
        if tag[0] == "<think>":
            if depth == 0:
                kept.append(reply[start : tag.start()])
            depth += 1
        elif depth == 0:
            kept.clear()
        else:
            depth -= 1
        start = tag.end()
    if depth == 0:
        kept.append(reply[start:])
    return "".join(kept)


def _boxed(reply: str) -> str | None:
    start = reply.rfind("\\boxed{")
    if start < 0:
        return None
    end = reply.find("}", start)
    inside = reply[start + 7 : end]
    if end >= 0 and "{" not in inside:
        return inside.strip()
    open_braces: list[tuple[bool, int]] = []
    best = (-1, 0)
    for match in _BOX.finditer(reply):
        if match[0] != "}":
            open_braces.append((len(match[0]) > 1, match.end()))
        elif open_braces:
            is_box, start = open_braces.pop()
            if is_box and start > best[0]:
                best = (start, match.start())
    if best[0] < 0:
        return None
    return _TEXT_MACRO.sub(r"\1", reply[best[0] : best[1]]).strip()


def _bracket(reply: str) -> str | None:
    found = None
    for match in _BRACKET.finditer(reply):
        found = match
    return found[1].strip() if found else None


def _tag(reply: str) -> str | None:
    opened: dict[str, int] = {}
    found = None
    for match in _TAG.finditer(reply):
        if not match[1]:
            opened[match[2]] = match.end()
        elif match[2] in opened:
            found = reply[opened.pop(match[2]) : match.start()].strip()
    return found


def _fence(reply: str) -> str:
    """The last fenced Python block, else the last fenced block, else the whole reply. An open fence ends with it."""
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, int] | None = None
    for line in _FENCE.finditer(reply):
        language = line[1].lower()
        if opened is not None:
            blocks.append((opened[0], reply[opened[1] : line.start()]))
        # A fence that names Python opens a block even if the previous block was not closed.
        opened = (language, line.end() + 1) if opened is None or language in _PYTHON else None
    if opened is not None and reply[opened[1] :].strip():
        blocks.append((opened[0], reply[opened[1] :]))
    python = [code for language, code in blocks if language in _PYTHON]
    return (python or [code for _, code in blocks] or [reply])[-1].rstrip()


@dataclass(frozen=True)
class Format:
    """One way to mark the action within a reply.

    Attributes:
        extract: Reply without its thinking -> the marked action; None if nothing is marked.
        template: A reply that carries an action, with ``%s`` in its place.
        instruction: Text for the system message, with ``%s`` in place of a sample reply.
    """

    extract: Callable[[str], str | None]
    template: str
    instruction: str


FORMATS: dict[str, Format] = {
    "boxed": Format(_boxed, "\\boxed{%s}", "Put your action in \\boxed{}, like %s."),
    "bracket": Format(_bracket, "[%s]", "Put your action in square brackets, like %s."),
    "tag": Format(_tag, "<answer>%s</answer>", "Put your action in <answer></answer>, like %s."),
    "fence": Format(_fence, "```python\n%s\n```", "Put your code in a fenced block:\n%s"),
    "plain": Format(str.strip, "%s", ""),
}


def extract_action(reply: str, action_format: str) -> str | None:
    """The action that ``reply`` marks; None if it marks none (the reply is malformed).

    Outer whitespace is removed, but ``fence`` keeps it before the code, whose first line may be indented.
    """
    return FORMATS[action_format].extract(strip_think(reply))


def format_action(action: str, action_format: str) -> str:
    """A reply that carries ``action``, as scripted players reply. The inverse of :func:`extract_action`."""
    return FORMATS[action_format].template % action


def match_action(candidate: str, legal: list[str] | None) -> str | None:
    """The legal action equal to ``candidate`` up to case and spaces; None if there are none or several."""
    if not legal or len(candidate) > 1000:
        return None
    folded = "".join(candidate.split()).casefold()
    fits = [action for action in legal if "".join(action.split()).casefold() == folded]
    return fits[0] if len(fits) == 1 else None
