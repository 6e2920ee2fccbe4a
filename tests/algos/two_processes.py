"""Run by torchrun: updates the micro model on each process's share of some rows, and stops.

torchrun --nproc_per_node 2 tests/algos/two_processes.py FOLDER
"""

import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from micro import some_rows, updated

from algos.run.interrupt import StopSignal

# Which of seven rows each process has; in the last case the second one has none.
SHARES = {"even": ([0, 2, 4, 6], [1, 3, 5]), "uneven": ([0], [1, 2, 3, 4, 5, 6]), "idle": ([0, 1, 2, 3, 4, 5, 6], [])}

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    accelerator = Accelerator()
    assert accelerator.num_processes == 2
    rows = some_rows(7)
    for name, shares in SHARES.items():
        for aggregation in ("token", "sequence", "constant"):
            mine = [rows[i] for i in shares[accelerator.process_index]]
            after, _ = updated(mine, accelerator, grpo__aggregation=aggregation, optim__micro_batch=2)
            torch.save(after, Path(sys.argv[1]) / f"{name}_{aggregation}_{accelerator.process_index}.pt")
    stop = StopSignal()
    asked = [stop.anywhere()]
    if accelerator.process_index == 1:
        signal.raise_signal(signal.SIGTERM)
    asked.append(stop.anywhere())
    torch.save((asked, stop.received), Path(sys.argv[1]) / f"stop_{accelerator.process_index}.pt")
    accelerator.end_training()
