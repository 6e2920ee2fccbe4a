"""Programs a second in the sandbox beside a subprocess each; run as `python benchmarks/sandbox.py`.

Everything is measured in one run and in turns, so that a machine that slows down slows all of it. What counts are the
ratios of the medians; those of the best rounds tell how much of a median is other people's work. All of it runs on one
core but the line that says otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from llm_gym.sandbox import Limits, Pool, run_tests

PROGRAM = "total = 0\nfor i in range(10):\n    total += i * i\nprint(total)\n"
SOLUTION = "def similar(a, b):\n    return tuple(sorted(set(a) & set(b)))\n"
TESTS = [f"assert similar(({i}, {i + 1}, {i + 2}), ({i + 1}, {i + 2}, 99)) == ({i + 1}, {i + 2})" for i in range(1, 11)]
BWRAP = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--unshare-all", "--die-with-parent"]


def by_subprocess(source: str, prefix: tuple[str, ...] = ()) -> None:
    """One interpreter for one program, without any isolation but the prefix's."""
    ended = subprocess.run(
        [*prefix, sys.executable, "-c", source], input="", capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def seconds_each(work: Callable[[], object], items: int) -> float:
    """Seconds an item that one call of `work`, which does `items`, takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / items


def on_cores(cores: list[int], workers: int) -> Pool:
    """A pool whose servers run on these cores, warm."""
    os.sched_setaffinity(0, cores)
    pool = Pool(workers=workers, limits=Limits())
    assert all(result.ok for result in pool.map([PROGRAM] * 50 * workers))
    return pool


def main() -> None:
    """Measure in turns and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--programs", type=int, default=200, help="programs a round in the sandbox")
    options = arguments.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    count, few = options.programs, max(1, options.programs // 20)
    single, double = on_cores(cores[:1], 1), on_cores(cores[:2], 2)
    three, layers = TESTS[:3], single.layers

    def graded(tests: list[str]) -> None:
        assert all(run_tests(SOLUTION, tests, pool=single).passed for _ in range(few))

    def apart(sources: list[str], prefix: tuple[str, ...] = ()) -> None:
        for source in sources:
            by_subprocess(source, prefix)

    tested = [f"{SOLUTION}\n{test}" for test in three] * (few // 3 + 1)
    work: dict[str, tuple[Callable[[], object], int, int]] = {
        "sandbox, all layers": (lambda: [single.run(PROGRAM) for _ in range(count)], count, 1),
        "`python -c` each": (lambda: apart([PROGRAM] * few), few, 1),
        "sandbox, map, one worker on one core": (lambda: list(single.map([PROGRAM] * count)), count, 1),
        "sandbox, map, two workers on two cores": (lambda: list(double.map([PROGRAM] * count)), count, 2),
        "run_tests, 3 tests a solution": (lambda: graded(three), few * 3, 1),
        "run_tests, 10 tests a solution": (lambda: graded(TESTS), few * 10, 1),
        "`python -c` a test": (lambda: apart(tested), len(tested), 1),
    }
    if shutil.which("bwrap"):
        work["`bwrap` each"] = (lambda: apart([PROGRAM] * few, tuple(BWRAP)), few, 1)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, (task, items, used) in work.items():
            os.sched_setaffinity(0, cores[:used])
            times[name].append(seconds_each(task, items))
    single.close()
    double.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    best = {name: min(values) for name, values in times.items()}
    print(
        f"Python {sys.version.split()[0]}, {os.uname().machine}, {options.rounds} rounds, layers: {', '.join(layers)}"
    )
    print("| what | a second (median) | ms each | best ms |\n| --- | --- | --- | --- |")
    for name, value in median.items():
        print(f"| {name} | {1 / value:.0f} | {value * 1e3:.2f} | {best[name] * 1e3:.2f} |")
    ratios = [
        ("sandbox, all layers", "`python -c` each"),
        ("sandbox, all layers", "`bwrap` each"),
        ("run_tests, 3 tests a solution", "`python -c` a test"),
        ("run_tests, 10 tests a solution", "`python -c` a test"),
        ("sandbox, map, two workers on two cores", "sandbox, map, one worker on one core"),
    ]
    print("\n| faster | than | times (of medians) | of the best rounds |\n| --- | --- | --- | --- |")
    for fast, slow in ratios:
        if slow in median:
            print(f"| {fast} | {slow} | {median[slow] / median[fast]:.1f} | {best[slow] / best[fast]:.1f} |")


if __name__ == "__main__":
    main()
