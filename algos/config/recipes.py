"""The files in `configs`: recipes that a name is enough for, and profiles; in a checkout and when installed."""

from __future__ import annotations

from pathlib import Path

from algos.errors import ConfigError
from llm_gym.arguments import nearest


def configs_folder() -> Path:
    """`configs` of the installed package (where the wheel puts it), or of the checkout."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def recipes() -> dict[str, Path]:
    """The recipes of the trainers, by name."""
    return {file.stem: file for file in sorted(configs_folder().glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file that ``--config name`` means: a path, or the name of a recipe without path and suffix.

    Raises:
        ConfigError: It is neither.
    """
    known = recipes()
    if "/" in name or name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    if name not in known:
        raise ConfigError(f"--config {name}: there is no such file and no recipe of this name{nearest(name, known)}")
    return known[name]
