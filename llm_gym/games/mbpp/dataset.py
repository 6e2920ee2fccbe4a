"""The tasks of MBPP: a file in one of its two published layouts, the Hugging Face hub, or this package's own tasks."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.error import DependencyNotInstalled

from llm_gym.sandbox.grading.operands import split_tests

OWN = "own"
PATH_VARIABLE = "MBPP_DATASET_PATH"
HUB = {"hub": "full", "hub:sanitized": "sanitized"}
HUB_NAME = "google-research-datasets/mbpp"
SPLITS: dict[str, tuple[range, ...]] = {
    "prompt": (range(1, 11),),
    "test": (range(11, 511), range(1021, 1031)),
    "validation": (range(511, 601),),
    "train": (range(601, 975), range(1001, 1021)),
}
"""Split -> its ids: those of the paper; from 1001 on, those of this package's own tasks."""
_OWN_FILE = Path(__file__).with_name("own_tasks.jsonl")
_WANTED = f"{PATH_VARIABLE} or dataset= names a copy of mbpp.jsonl or sanitized-mbpp.json"


@dataclass(frozen=True)
class MbppTask:
    """One task.

    Attributes:
        task_id: Its number in the data set.
        text: What the function must do.
        code: The reference solution.
        tests: ``assert`` statements.
        imports: Statements that belong before the tests (``test_imports`` of the sanitized set).
        setup: Statements that belong after the solution (``test_setup_code`` of the full set).
    """

    task_id: int
    text: str
    code: str
    tests: tuple[str, ...]
    imports: str
    setup: str


def source_of(dataset: str | None) -> str:
    """The source that ``dataset`` names: ``own``, ``hub``, ``hub:sanitized`` or an absolute path."""
    named = dataset or os.environ.get(PATH_VARIABLE) or OWN
    return named if named == OWN or named in HUB else str(Path(named).expanduser().absolute())


@functools.lru_cache(maxsize=16)
def read_tasks(source: str, split: str = "all") -> tuple[MbppTask, ...]:
    """The tasks of a source (see :func:`source_of`) in the order of their ids. A process reads each source once.

    Raises:
        ValueError: The source cannot be read or holds something else; one line says what and where.
        gymnasium.error.DependencyNotInstalled: The source is the hub, and ``datasets`` is not installed.
    """
    if split != "all":
        return tuple(task for task in read_tasks(source) if any(task.task_id in ids for ids in SPLITS[split]))
    records = _from_hub(HUB[source]) if source in HUB else _from_file(_OWN_FILE if source == OWN else Path(source))
    tasks = [_task(record, f"record {number} of {source}") for number, record in enumerate(records, start=1)]
    if not tasks:
        raise ValueError(f"MBPP: {source} holds no tasks")
    if len({task.task_id for task in tasks}) < len(tasks):
        raise ValueError(f"MBPP: {source} holds a task_id twice")
    return tuple(sorted(tasks, key=lambda task: task.task_id))


def _from_file(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(f"MBPP: cannot read {path}: {reason}; {_WANTED}") from None
    try:
        if text.lstrip().startswith("["):
            records: list[Any] = json.loads(text)
            return records
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"MBPP: {path} is neither JSON lines nor a JSON list ({error}); {_WANTED}") from None


def _from_hub(subset: str) -> list[Any]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise DependencyNotInstalled(
            f"MBPP from the hub needs the datasets library: pip install datasets; or {_WANTED}"
        ) from None
    try:
        splits = datasets.load_dataset(HUB_NAME, subset)
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"MBPP: cannot read {HUB_NAME} from the Hugging Face hub ({reason}); {_WANTED}") from None
    return [record for split in splits.values() for record in split]


def _task(record: Any, where: str) -> MbppTask:
    try:
        task = MbppTask(
            task_id=int(record["task_id"]),
            text=_clean(record["text"] if "text" in record else record["prompt"]),
            code=_clean(record["code"]),
            tests=tuple(_clean(test) for test in record["test_list"]),
            imports="\n".join(map(_clean, record.get("test_imports") or ())),
            setup=_clean(record.get("test_setup_code") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"MBPP: {where} is no MBPP record ({type(error).__name__}: {error}); {_WANTED}") from None
    try:
        if not task.tests:
            raise ValueError("it has no tests")
        split_tests(task.tests, task.imports)
    except ValueError as error:
        raise ValueError(f"MBPP: {where}, task {task.task_id}: {error}") from None
    return task


def _clean(text: str) -> str:
    """The full set has Windows line ends."""
    return text.replace("\r\n", "\n").strip()
