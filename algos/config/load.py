"""Reading settings: defaults, then a profile, YAML, environment variables, the command line; the later wins."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from algos.errors import ConfigError

ENV_PREFIX = "LLM_GYM_"
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
"""Settings under their earlier names: the error says what they are called today."""


C = TypeVar("C", bound=BaseModel)


def load(schema: type[C], argv: list[str]) -> tuple[C, dict[str, str], dict[str, bool]]:
    """Reads ``--config FILE``, ``LLM_GYM_<SECTION>__<KEY>`` variables and ``--section.key value`` from ``argv``.

    ``--profile NAME``, or ``profile: NAME`` in a file, puts a hardware profile's settings under all of them.

    Returns:
        The settings; where each one that is not a default came from; and the flags ``resume`` and ``overwrite``.

    Raises:
        ConfigError: Anything is unknown, of the wrong type, or impossible together.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    files, overrides, flags = _split(argv)
    documents = [(str(file), read_yaml(file)) for file in files]
    named = [document.pop("profile") for _, document in documents if "profile" in document]
    named += [text for key, text in overrides if key == "profile"]
    if named:
        _put_profile(schema, values, sources, str(named[-1]))
    for file, document in documents:
        for key, value in _flatten(document):
            _put(schema, values, sources, key, value, file)
    for name, text in sorted(os.environ.items()):
        if name.startswith(ENV_PREFIX) and "__" in name:
            key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
            _put(schema, values, sources, key, text, f"environment variable {name}", is_text=True)
    for key, text in overrides:
        if key == "profile":
            continue
        if key == "model":
            key = "model.path"
        _put(schema, values, sources, key, text, "command line", is_text=True)
    try:
        return schema.model_validate(values), sources, flags
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        given = "" if isinstance(first["input"], BaseModel | dict) else f" (got {first['input']!r})"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def _split(argv: list[str]) -> tuple[list[Path], list[tuple[str, str]], dict[str, bool]]:
    files: list[Path] = []
    overrides: list[tuple[str, str]] = []
    flags = {"resume": False, "overwrite": False}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or not name:
            raise ConfigError(f"unexpected argument {word!r}: settings are written --section.key value")
        if name in flags and not equals:
            flags[name] = True
            continue
        if not equals:
            if not rest:
                raise ConfigError(f"--{name} needs a value")
            value = rest.pop(0)
        if name == "config":
            files.append(Path(value))
        else:
            overrides.append((name, value))
    return files, overrides, flags


def _put_profile(schema: type[BaseModel], values: dict[str, Any], sources: dict[str, str], name: str) -> None:
    """Sets what the profile says of sections that this trainer has."""
    from algos.config.profiles import settings

    for key, value, source in settings(name):
        if key.partition(".")[0] in schema.model_fields:
            _put(schema, values, sources, key, value, source)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file of settings.

    Raises:
        ConfigError: It is not there, is no YAML, or holds something else.
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


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


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
        raise ConfigError(f"{source}: unknown section {section!r} in {key!r}{_nearest(section, known)}")
    part = known[section].annotation
    if not name or not (isinstance(part, type) and issubclass(part, BaseModel)):
        raise ConfigError(f"{source}: {key!r} is not of the form section.key")
    if key in RENAMED:
        raise ConfigError(f"{source}: {key!r} is called {RENAMED[key]} now")
    if name not in part.model_fields and part.model_config.get("extra") != "allow":
        raise ConfigError(f"{source}: unknown setting {key!r}{_nearest(name, part.model_fields, section + '.')}")
    field = part.model_fields.get(name)
    if field is None or field.annotation not in (str, Path):  # a name such as "007" or "a: b" is no number, no mapping
        value = _number(_scalar(value) if is_text else value)
    # YAML spells nothing `null`; people write None, which would otherwise be the string "None".
    values.setdefault(section, {})[name] = None if value == "None" else value
    sources[key] = source
    if section == "env" and isinstance(changes := values.get("eval", {}).get("env"), dict):
        changes.pop(name, None)  # who changes the environment later than `eval.env` means evaluation too


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6 as a string; it is a number here."""
    if isinstance(value, str) and value[:1] in "-+.0123456789":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _nearest(name: str, known: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known are {', '.join(prefix + k for k in known)}"


def dump(config: BaseModel, sources: dict[str, str]) -> str:
    """The resolved settings as YAML that loads again, each line with where it came from."""
    lines = []
    for section, settings in config.model_dump(mode="json").items():
        lines.append(f"{section}:")
        for key, value in settings.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
            lines.append(f"  {key}: {text}  # {sources.get(f'{section}.{key}', 'default')}")
    return "\n".join(lines) + "\n"
