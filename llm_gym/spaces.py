"""A space of strings of any length and alphabet, which works in Gymnasium's vector environments."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from gymnasium.spaces import Space
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

# What a sample draws from: letters, digits, markup, several scripts, an emoji, combining and right-to-left marks.
SAMPLE_ALPHABET = "abcxyzABCXYZ0123456789 .,!?-_\\{}[]<>/\n\täßжЯ中文字עבر🥚\u0301\u200f"


class Unicode(Space[str]):
    """Every ``str``. Unlike ``gymnasium.spaces.Text`` it has no alphabet and no length limit.

    Batched, it is a ``Tuple`` of itself, so vector environments return tuples of strings.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A random string of 0 to 24 characters. Masks do not apply to strings."""
        if mask is not None or probability is not None:
            raise ValueError("Unicode.sample takes no mask and no probability: strings are not enumerable")
        rng = self.np_random
        return "".join(SAMPLE_ALPHABET[int(i)] for i in rng.integers(len(SAMPLE_ALPHABET), size=int(rng.integers(25))))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __repr__(self) -> str:
        return "Unicode()"

    def __eq__(self, other: object) -> bool:
        return type(other) is Unicode

    def __hash__(self) -> int:
        return hash(Unicode)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that exits must not take the folder along
        shutil.rmtree(folder, ignore_errors=True)


class TextChannel:
    """The latest string of each worker process: one file per worker, read by the parent after the worker reports.

    ``AsyncVectorEnv`` asks for shared memory by default, whose size is fixed. Files hold text of any length, and their
    paths can be pickled under every start method.
    """

    def __init__(self, n: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="llm_gym_")
        self.paths = [os.path.join(self.folder, str(i)) for i in range(n)]
        self._cleanup = weakref.finalize(self, _remove, self.folder, os.getpid())
        for i in range(n):
            self.write(i, "")

    def write(self, index: int, text: str) -> None:
        with open(self.paths[index], "wb") as file:
            file.write(text.encode("utf-8", "surrogatepass"))

    def read(self, index: int) -> str:
        with open(self.paths[index], "rb") as file:
            return file.read().decode("utf-8", "surrogatepass")

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "paths": self.paths}  # the creator alone removes the folder


class LatestTexts(Sequence[str]):
    """The workers' latest strings, read on access. A deep copy, as vector environments return it, is a tuple."""

    def __init__(self, channel: TextChannel) -> None:
        self.channel = channel

    def __len__(self) -> int:
        return len(self.channel.paths)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index] if isinstance(index, slice) else self.channel.read(range(len(self))[index])

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


@create_shared_memory.register(Unicode)
def _create(space: Unicode, n: int = 1, ctx: ModuleType = multiprocessing) -> TextChannel:
    return TextChannel(n)


@read_from_shared_memory.register(Unicode)
def _read(space: Unicode, shared_memory: TextChannel, n: int = 1) -> LatestTexts:
    return LatestTexts(shared_memory)


@write_to_shared_memory.register(Unicode)
def _write(space: Unicode, index: int, value: str, shared_memory: TextChannel) -> None:
    shared_memory.write(index, value)
