"""Run by a launcher: three GRPO steps on given episodes, each process on its share; what came of it is saved.

several_processes.py FOLDER EPISODES TRAINER_ARGUMENTS...
"""

import os
import sys
from pathlib import Path

import torch

from algos import grpo, spiral
from algos.cluster import processes
from algos.config.load import load
from algos.maths.advantages import RoleBaseline, whiten
from algos.training.run import Run
from algos.training.trainer import Trainer

if __name__ == "__main__":
    out, stored, *argv = sys.argv[1:]
    config, sources, flags = load(grpo.GrpoConfig, [*argv, "--run.dir", str(Path(out) / "run")])
    Path(out, "run").mkdir(parents=True, exist_ok=True)
    trainer = Trainer.start(config, flags["resume"], reference=True)
    run = Run("grpo", config, sources, trainer)
    steps = torch.load(stored, weights_only=False)
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    norms = []
    for step in run.steps():
        groups = steps[step]
        share = len(groups) // world
        mine = groups[rank * share :][:share]
        if os.environ.get("DIE_AT") == str(step) and rank == world - 1:
            raise RuntimeError("this process dies of its own error")
        with run.phase("update"):
            rows, metrics = grpo.advantage(config, mine)
            metrics |= grpo.update(config, rows, trainer, step)
        norms.append(metrics["optim/grad_norm"])
        trainer.sync(step + 1)
        run.end_step(step, rows, metrics, [episode for group in mine for episode in group])
    run.save()
    share = len(steps[1]) // world
    played = [episode for group in steps[1][rank * share :][:share] for episode in group]
    baseline = RoleBaseline(0.95)
    spiral.advantage(played, baseline, rank)
    credits = torch.tensor([episode.turns[0].advantage for episode in played], dtype=torch.float64)
    returns = torch.tensor([episode.total_reward for episode in played], dtype=torch.float64)
    over_all = (baseline.values, credits, whiten(returns, reduce=trainer.summed))
    torch.save((norms, dict(trainer.full_model.state_dict()), over_all), Path(out) / f"after_{rank}.pt")
    processes.end(0)
