"""What ``import llm_gym`` does to the process that imports it: nothing but register ids."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "accelerate", "pyspiel", "open_spiel", "pettingzoo", "fastapi", "pydantic", "yaml"]

PROGRAM = """
import json, random, sys
import numpy as np
random.seed(1), np.random.seed(1)
before = repr((random.getstate(), np.random.get_state()))
{statement}
print(json.dumps({{
    "modules": sorted(sys.modules),
    "random": before == repr((random.getstate(), np.random.get_state())),
}}))
"""

PLAYED = """
import gymnasium, llm_gym
env = gymnasium.make("llmgym/TicTacToe-v0")
env.reset(seed=0)
env.step("no action")
"""


@pytest.mark.parametrize(
    "statement", ["import llm_gym", PLAYED, "import llm_gym.testing"], ids=["import", "play", "check"]
)
def test_importing_and_playing_load_and_touch_nothing_else(statement: str) -> None:
    program = PROGRAM.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    line, *more = done.stdout.splitlines()
    assert more == []  # nothing printed but the answer
    answer = json.loads(line)
    assert [name for name in HEAVY if name in answer["modules"]] == []
    assert "llm_gym" in answer["modules"]
    assert answer["random"] is True


def test_a_game_loads_when_it_is_first_made() -> None:
    program = "import llm_gym, sys; print('llm_gym.games.tic_tac_toe' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
