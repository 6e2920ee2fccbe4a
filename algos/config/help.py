"""The command line of a trainer's script, and the help that shows every setting of a schema."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from algos.errors import die
from llm_gym.arguments import Parser, nearest

ENV_PREFIX = "LLM_GYM_"
SOURCES = """\
A setting can be given in several places; the later wins:
  1. a hardware profile: --profile NAME, or `profile: NAME` in a YAML file
  2. YAML files: --config FILE, or the name of a recipe (`llm-gym configs` lists them); `optim: {lr: 1e-6}`
  3. environment variables: LLM_GYM_OPTIM__LR=1e-6
  4. the command line: --optim.lr 1e-6
"""
KINDS = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", NoneType: "null"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


class ScriptParser(Parser):
    """The command line of a script whose settings are those of ``schema``."""

    def __init__(self, schema: type[BaseModel]) -> None:
        name = Path(sys.argv[0]).name
        usage = f"{name} [--config FILE] [--profile NAME] [--section.key value] [--resume | --overwrite]"
        super().__init__(usage=usage, description=SOURCES, add_help=False)
        self.schema = schema
        self.add_argument(
            "-h", "--help", nargs="?", const="", metavar="SECTION", help="show the settings, or those of one section"
        )
        self.accept_settings(lambda parser: add_settings(parser, schema, []), "model")
        self.settings_in_help = False
        self.add_argument("--model", metavar="PATH", help="the same as --model.path")
        self.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in run.dir")
        self.add_argument("--overwrite", action="store_true", help="delete the earlier run in run.dir")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments in ``words``; after ``--help`` the program ends."""
        given = super().read(words)
        if given.help is not None:
            if given.help and given.help not in self.schema.model_fields:
                die(f"--help {given.help}: no such section{nearest(given.help, self.schema.model_fields)}")
            add_settings(self, self.schema, [given.help] if given.help else [])
            self.print_help()
            raise SystemExit(0)
        return given


def add_settings(parser: Parser, schema: type[BaseModel], sections: Collection[str]) -> None:
    """Adds an option for each setting of ``sections`` (of all, if none are named), a group each."""
    for section, values in schema().model_dump(mode="json", include=set(sections) or None).items():
        part = _section(schema.model_fields[section])
        where = f"YAML `{section}: {{KEY: VALUE}}`, variables {ENV_PREFIX}{section.upper()}__KEY"
        if part.model_config.get("extra") == "allow":
            where += "; any setting of the environment too, such as --env.opponent minimax"
        group = parser.add_argument_group(f"section {section}", where)
        for key, field in part.model_fields.items():
            facts = [*_bounds(field), f"default {as_yaml(values[key])}", f"{ENV_PREFIX}{section}__{key}".upper()]
            text = f"{field.description}{_entries(field.annotation)} ({'; '.join(facts)})"
            group.add_argument(f"--{section}.{key}", metavar=_kind(field.annotation), help=text.replace("%", "%%"))


def as_yaml(value: Any) -> str:
    """A value on one line, as YAML that reads as the same value."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def _section(field: FieldInfo) -> type[BaseModel]:
    part = field.annotation
    assert isinstance(part, type)
    assert issubclass(part, BaseModel)
    return part


def _bounds(field: FieldInfo) -> list[str]:
    return [
        f"{word} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, word in BOUNDS.items()
        if hasattr(bound, name)
    ]


def _kind(annotation: Any) -> str:
    """What a value looks like: ``INTEGER``, ``{a,b}``, ``NUMBER or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"{{{','.join(map(str, arguments))}}}"
    if origin in (list, dict):
        return "LIST" if origin is list else "MAPPING"
    return " or ".join(map(_kind, arguments)) if arguments else KINDS.get(annotation, "TEXT")


def _entries(annotation: Any) -> str:
    """For a list of mappings, the keys of each."""
    parts = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    keys = [
        f"{key} ({_kind(field.annotation)}): {field.description}{_entries(field.annotation)}"
        for part in parts
        for key, field in part.model_fields.items()
    ]
    return f" Each entry has {' '.join(keys)}" if keys else ""
