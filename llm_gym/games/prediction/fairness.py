"""Whether a program of the prediction game is fair: what it may contain, and what it must print."""

from __future__ import annotations

from pathlib import Path

from llm_gym.games.code.programs import Judge
from llm_gym.games.prediction import names
from llm_gym.parsing import extract_action, format_action

_READ_NAMES = Path(names.__file__).read_text(encoding="utf-8")
_HASH_SEEDS = (1, 2)
_FORMATS = ("boxed", "tag", "plain")


def judge_program(program: str, judge: Judge, most_chars: int, most_output: int) -> tuple[str, str]:
    """Runs ``program`` twice, with different hash seeds.

    Returns:
        Its output without outer whitespace, and an empty string; or an empty string, and why it is not fair.
    """
    unfair = _unfair_text(program, most_chars) or judge.run(_READ_NAMES, program, _HASH_SEEDS[0]).stdout.strip()
    if unfair:
        return "", unfair
    outputs = []
    for seed in _HASH_SEEDS:
        result = judge.run(program, hash_seed=seed)
        if not result.ok:
            return "", f"it ended with {result.status}"
        outputs.append(result.stdout.strip())
    output = outputs[0]
    if output != outputs[1]:
        return "", "it printed something else when it was run again"
    return ("", unfair) if (unfair := _unfair_output(output, most_output)) else (output, "")


def _unfair_text(program: str, most_chars: int) -> str:
    if not program.strip():
        return "there is no program"
    if len(program) > most_chars:
        return f"it has more than {most_chars} characters"
    if not all(char.isprintable() or char in "\n\t" for char in program):
        return "it has characters that do not print"
    return ""


def _unfair_output(output: str, most_output: int) -> str:
    if not output:
        return "it printed nothing"
    if len(output.splitlines()) > 1:
        return "it printed more than one line"
    if len(output) > most_output:
        return f"its line has more than {most_output} characters"
    if not output.isprintable() or any(extract_action(format_action(output, f), f) != output for f in _FORMATS):
        return "its line cannot be given as a reply"
    return ""
