"""The guide to a new environment does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "new_environment.md").read_text()
PLAY = """
env = gymnasium.make("mine/Guess-v0")
env.reset(seed=0)
low, high, turns, over = 1, 100, 0, False
while not over:
    middle = (low + high) // 2
    observation, reward, over, _, info = env.step(f"Half of it. \\\\boxed{{{middle}}}")
    low, high = (middle + 1, high) if f" {middle} is too low" in " " + observation else (low, middle - 1)
    turns += 1
print(info["outcome"], reward, turns <= 7)
"""


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "guide.py"
    script.write_text(code)
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=folder, check=False)


def test_the_environment_has_at_most_25_lines():
    (block,) = blocks()
    assert len([line for line in block.splitlines() if line.strip()]) <= 25


def test_the_environment_passes_its_checks_and_can_be_won(tmp_path):
    done = run(blocks()[0] + PLAY, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "solved 1.0 True\n"


@pytest.mark.parametrize(
    ("right", "wrong", "breach"),
    [
        ("return [float(", "return [2.0 + float(", "outside the declared range"),
        ("rng.integers(1, 101)", "__import__('random').randint(1, 100)", "the global random state was used"),
        ("raise IllegalAction(action)", "raise KeyError(action)", "raised KeyError"),
    ],
)
def test_the_checks_notice_a_mistake_in_it(right, wrong, breach, tmp_path):
    assert right in blocks()[0]
    done = run(blocks()[0].replace(right, wrong), tmp_path)
    assert done.returncode == 1
    assert breach in done.stderr.splitlines()[-1]
