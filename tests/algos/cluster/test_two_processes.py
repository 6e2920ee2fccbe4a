"""The number of processes changes memory and time, never the gradient nor what an episode is credited with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from micro import some_rows, updated
from two_processes import SHARES, critics_credit, role_credit, some_episodes, step_credit


@pytest.mark.usefixtures("float64")
def test_two_processes_take_the_step_of_one_and_stop_together(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "two_processes.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(script), str(tmp_path)]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, error = launcher.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        launcher.terminate()  # it ends its processes, which may be waiting for one another for ever
        _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, error[-3000:]
    for aggregation in ("token", "sequence", "constant"):
        alone, _ = updated(some_rows(7), Accelerator(), grpo__aggregation=aggregation)
        for share in SHARES:
            for process in range(2):
                after = torch.load(tmp_path / f"{share}_{aggregation}_{process}.pt")
                for name, value in alone.items():
                    torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-9)
    shares = [torch.load(tmp_path / f"credit_{process}.pt") for process in range(2)]
    everyone = some_episodes()
    roles = role_credit(everyone, 0), role_credit(everyone, 0, "same_prompt")
    steps = step_credit(everyone, "episode"), step_credit(everyone, "same_prompt")
    together = *roles, *steps, critics_credit(everyone, Accelerator())
    assert roles[0] != roles[1]
    assert steps[0] != steps[1]
    for number, whole in enumerate(together):
        (first, figures), (second, other_figures) = (share[number] for share in shares)
        assert first + second == pytest.approx(whole[0], abs=1e-9)
        assert len(second) < len(first)
        assert figures == pytest.approx(whole[1], abs=1e-9)
        assert other_figures == pytest.approx(whole[1], abs=1e-9)
    # One of them got a signal; the other would wait for it for ever in the next step's collective call.
    for process in range(2):
        assert torch.load(tmp_path / f"stop_{process}.pt") == ([False, True], "SIGTERM")
