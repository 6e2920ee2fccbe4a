"""Writes the table of attacks into `docs/sandbox.md`; run as a module, from the repository's root."""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.attacks import ATTACKS, FORKING

COMMAND = "python -m tests.sandbox.attack_page"
PAGE = Path(__file__).parents[2] / "docs" / "sandbox.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"


def table() -> str:
    """The attacks as a Markdown table."""
    rows = ["| # | a program that tries | ends with | held by |", "| --- | --- | --- | --- |"]
    for number, attack in enumerate(ATTACKS, 1):
        forking = " (with `processes=8`)" if attack.limits is FORKING else ""
        ending = " or ".join(f"`{status}`" for status in attack.status.split())
        rows.append(f"| {number} | {attack.name}{forking} | {ending} | {attack.held} |")
    return "\n".join(rows) + "\n"


def rewritten() -> str:
    """The page with the table as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(), encoding="utf-8")
