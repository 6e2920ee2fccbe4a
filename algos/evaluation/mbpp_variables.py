"""The environment variables that ask for an evaluation on MBPP during any run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from algos.config.schema import ExtraEvaluation
from algos.errors import ConfigError

ENABLED = "MBPP_EVAL_ENABLED"
QUESTIONS = Annotated[PositiveInt | Literal["all"], BeforeValidator(str.lower)]
TEMPERATURE = Annotated[float, Field(ge=0, allow_inf_nan=False)]
VARIABLES: dict[str, tuple[str, Any, str, Any]] = {
    ENABLED: ("", bool, "1 or 0", False),
    "MBPP_EVAL_NUM_QUESTIONS": ("episodes", QUESTIONS, "a whole number of at least 1", "all"),
    "MBPP_EVAL_SPLIT": ("split", str, "a split", "test"),
    "MBPP_EVAL_AT_START": ("before", bool, "1 or 0", True),
    "MBPP_EVAL_AT_END": ("after", bool, "1 or 0", True),
    "MBPP_EVAL_INTERVAL_STEPS": ("every", NonNegativeInt, "a whole number of at least 0", 0),
    "MBPP_MAX_NEW_TOKENS": ("max_new_tokens", PositiveInt, "a whole number of at least 1", 512),
    "MBPP_TEMPERATURE": ("temperature", TEMPERATURE, "a number of at least 0", 0.0),
    "MBPP_RESULTS_DIR": ("details", Path, "a folder", None),
}
"""Each variable's field of the evaluation, type, what its value must be, and default."""


def from_variables(variables: Mapping[str, str]) -> ExtraEvaluation | None:
    """The evaluation that ``MBPP_EVAL_ENABLED=1`` and the others ask for; None without it.

    ``MBPP_DATASET_PATH`` and ``MBPP_TIMEOUT_SECONDS`` are read by the environment itself.

    Raises:
        ConfigError: A variable has an impossible value.
    """

    def read(name: str) -> Any:
        _, kind, wanted, default = VARIABLES[name]
        text = variables.get(name, "").strip()
        try:
            return TypeAdapter(kind).validate_python(text) if text else default
        except ValidationError:
            raise ConfigError(f"environment variable {name} must be {wanted}, not {text!r}") from None

    if not read(ENABLED):
        return None
    fields = {field: read(name) for name, (field, *_) in VARIABLES.items() if name != ENABLED}
    return ExtraEvaluation(name="mbpp_eval", id="llmgym/MBPP-v0", **fields)
