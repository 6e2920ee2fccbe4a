"""Reading settings: defaults, then a profile, YAML, environment variables, the command line; the later wins."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from algos.config import profiles
from algos.config.help import ENV_PREFIX, ScriptParser, as_yaml
from algos.config.recipes import find_recipe
from algos.errors import ConfigError, die
from llm_gym.arguments import as_number, nearest, read_value

RENAMED = {
    "eval.also": "eval.extra",
    "grpo.credit": "grpo.advantage_level (episode or same_prompt)",
    "grpo.drop_no_signal": "grpo.filter_zero_std",
    "grpo.importance_cap": "grpo.tis_cap",
    "grpo.refill": "grpo.dynamic_sampling_rounds",
    "optim.average_decay": "optim.ema_decay",
    "ppo.credit": "ppo.gae_unit",
    "ppo.importance_cap": "ppo.tis_cap",
    "ppo.lam": "ppo.gae_lambda",
    "spiral.credit": "spiral.advantage_level (role or same_prompt)",
    "spiral.importance_cap": "spiral.tis_cap",
    "spiral.past_every": "spiral.opponent_pool_every",
    "spiral.past_share": "spiral.opponent_pool_share",
    "spiral.past_size": "spiral.opponent_pool_size",
}
"""Settings under their earlier names: the error gives the current name."""
REFUSED = {
    "model.lora_dropout": "the policy that is trained must be the one that sampled, without dropout",
    "rollout.top_k": "training samples from the whole distribution, top_k off",
    "rollout.top_p": "training samples from the whole distribution, top_p 1",
}
"""Settings with one legal value: the error gives the reason why they cannot be set."""


C = TypeVar("C", bound=BaseModel)


def check_arguments(schema: type[C], argv: list[str] | None = None) -> None:
    """Ends the program with one line and status 2 where a setting is wrong, and after ``--help``; else does nothing.

    A script calls it before it imports torch, so that the answer comes at once.
    """
    try:
        load(schema, sys.argv[1:] if argv is None else argv, profiles.Machine())  # finding the machine takes torch
    except ConfigError as error:
        die(error)


def load(
    schema: type[C], argv: list[str], machine: profiles.Machine | None = None
) -> tuple[C, dict[str, str], dict[str, bool]]:
    """Reads ``--config FILE``, ``LLM_GYM_<SECTION>__<KEY>`` variables and ``--section.key value`` from ``argv``.

    ``--profile NAME``, or ``profile: NAME`` in a file, puts a hardware profile's settings under all of them.

    Args:
        machine: The machine that a profile is fitted to; None: this one.

    Returns:
        The settings; the source of each one that is not a default; and the flags ``resume`` and ``overwrite``.

    Raises:
        ConfigError: Anything is unknown, of the wrong type, or impossible together.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    given = ScriptParser(schema).read(argv)
    documents = [(name, read_yaml(find_recipe(name))) for key, name in given.settings if key == "config"]
    named = [document.pop("profile") for _, document in documents if "profile" in document]
    named += [text for key, text in given.settings if key == "profile"]
    for key, value, source in profiles.settings(str(named[-1]), machine) if named else ():
        if key.partition(".")[0] in schema.model_fields:
            _put(schema, values, sources, key, value, source)
    for file, document in documents:
        for key, value in _flatten(document):
            _put(schema, values, sources, key, value, file)
    for name, text in sorted(os.environ.items()):
        if name.startswith(ENV_PREFIX) and "__" in name:
            key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
            _put(schema, values, sources, key, text, f"environment variable {name}", is_text=True)
    for key, text in given.settings:
        if key not in ("config", "profile"):
            _put(schema, values, sources, "model.path" if key == "model" else key, text, "command line", is_text=True)
    try:
        return schema.model_validate(values), sources, {"resume": given.resume, "overwrite": given.overwrite}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        found = "" if isinstance(first["input"], BaseModel | dict) else f" (got {first['input']!r})"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{found}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file of settings.

    Raises:
        ConfigError: There is no such file, it is not YAML, or it does not hold sections.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(data or {}, dict):
        raise ConfigError(f"--config {path}: must be sections of settings, not a {type(data).__name__}")
    return data or {}


def _flatten(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat += _flatten(value, name + ".") if isinstance(value, dict) and not prefix else [(name, value)]
    return flat


def _put(
    schema: type[BaseModel],
    values: dict[str, Any],
    sources: dict[str, str],
    key: str,
    value: Any,
    source: str,
    is_text: bool = False,
) -> None:
    """Sets ``values[section][name]``, having checked that the schema knows it; text is read as YAML reads it."""
    section, _, name = key.partition(".")
    known = schema.model_fields
    if section not in known:
        raise ConfigError(f"{source}: unknown section {section!r} in {key!r}{nearest(section, known)}")
    part = known[section].annotation
    if not name or not (isinstance(part, type) and issubclass(part, BaseModel)):
        raise ConfigError(f"{source}: {key!r} is not of the form section.key")
    if key in RENAMED:
        raise ConfigError(f"{source}: {key!r} is called {RENAMED[key]} now")
    if key in REFUSED:
        raise ConfigError(f"{source}: {key} cannot be set: {REFUSED[key]}")
    if name not in part.model_fields and part.model_config.get("extra") != "allow":
        raise ConfigError(f"{source}: unknown setting {key!r}{nearest(name, part.model_fields, section + '.')}")
    field = part.model_fields.get(name)
    if field is None or field.annotation not in (str, Path):  # a name such as "007" or "a: b" is no number, no mapping
        value = read_value(value) if is_text else as_number(value)
    # YAML spells nothing `null`; people write None, which would otherwise be the string "None".
    values.setdefault(section, {})[name] = None if value == "None" else value
    sources[key] = source
    if section == "env" and isinstance(changes := values.get("eval", {}).get("env"), dict):
        changes.pop(name, None)  # who changes the environment later than `eval.env` means evaluation too


def dump(config: BaseModel, sources: dict[str, str]) -> str:
    """The resolved settings as YAML that loads again, each line with its source."""
    lines = []
    for section, settings in config.model_dump(mode="json").items():
        lines.append(f"{section}:")
        for key, value in settings.items():
            lines.append(f"  {key}: {as_yaml(value)}  # {sources.get(f'{section}.{key}', 'default')}")
    return "\n".join(lines) + "\n"
