"""The environment variables that ask for an evaluation on MBPP during any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from algos.config.schema import ExtraEvaluation
from algos.errors import ConfigError

NAME = "mbpp_eval"
TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
T = TypeVar("T")


def from_variables(variables: Mapping[str, str]) -> ExtraEvaluation | None:
    """The evaluation that ``MBPP_EVAL_ENABLED=1`` and its like ask for; None without it.

    ``MBPP_DATASET_PATH`` and ``MBPP_TIMEOUT_SECONDS`` are read by the environment itself.

    Raises:
        ConfigError: A variable has a value that cannot be meant.
    """

    def read(name: str, convert: Callable[[str], T], wanted: str, default: T) -> T:
        text = variables.get(name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except (KeyError, ValueError):
            raise ConfigError(f"environment variable {name} must be {wanted}, not {text!r}") from None

    def truth(name: str, default: bool) -> bool:
        return read(name, lambda text: TRUTHS[text.lower()], "1 or 0", default)

    def count(name: str, least: int, default: int) -> int:
        return read(name, lambda text: _at_least(int(text), least), f"a whole number of at least {least}", default)

    if not truth("MBPP_EVAL_ENABLED", False):
        return None
    questions = variables.get("MBPP_EVAL_NUM_QUESTIONS", "").strip().lower() or "all"
    folder = variables.get("MBPP_RESULTS_DIR", "").strip()
    return ExtraEvaluation(
        name=NAME,
        id="llmgym/MBPP-v0",
        episodes="all" if questions == "all" else count("MBPP_EVAL_NUM_QUESTIONS", 1, 1),
        temperature=read("MBPP_TEMPERATURE", lambda text: _at_least(float(text), 0.0), "a number of at least 0", 0.0),
        max_new_tokens=count("MBPP_MAX_NEW_TOKENS", 1, 512),
        every=count("MBPP_EVAL_INTERVAL_STEPS", 0, 0),
        before=truth("MBPP_EVAL_AT_START", True),
        after=truth("MBPP_EVAL_AT_END", True),
        details=Path(folder) if folder else None,
        **{"split": variables.get("MBPP_EVAL_SPLIT", "").strip() or "test"},
    )


def _at_least(number: T, least: float) -> T:
    if not (isinstance(number, int | float) and math.isfinite(number) and number >= least):
        raise ValueError(number)
    return number
