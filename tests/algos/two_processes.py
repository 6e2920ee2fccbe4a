"""Run by torchrun: updates the micro model on each process's share of some rows, credits episodes, and stops.

torchrun --nproc_per_node 2 tests/algos/two_processes.py FOLDER
"""

import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from micro import micro_trainer, sections, some_rows, updated

from algos import grpo, ppo, spiral
from algos.cluster import processes
from algos.data.episodes import Episode, Turn
from algos.maths.advantages import RoleBaseline, RunningScale
from algos.model.critic import ActorCritic
from algos.training.interrupt import StopSignal

# Which of seven rows each process has; in the last case the second one has none.
SHARES = {"even": ([0, 2, 4, 6], [1, 3, 5]), "uneven": ([0], [1, 2, 3, 4, 5, 6]), "idle": ([0, 1, 2, 3, 4, 5, 6], [])}


def some_episodes() -> list[Episode]:
    """Of two seats, won and lost and of unequal lengths; one of them never moved, so the second half is shorter."""
    made = []
    for number, earned in enumerate([1.0, -1.0, 0.5, -1.5, 1.0, 0.0, -1.0, 1.0]):
        turns = [Turn([1, number % 3], [2] * (1 + number % 3), [-1.0] * (1 + number % 3), reward=earned)]
        made.append(Episode("game", 0, player=number % 2, terminated=True, turns=[] if number == 5 else turns))
    return made


def role_credit(episodes: list[Episode], rank: int, credit: str = "role") -> tuple[list[float], dict[str, float]]:
    """SPIRAL's advantages of the second of two equal steps, and the baselines after it."""
    baseline = RoleBaseline(0.8)
    for _ in range(2):
        _, figures = spiral.advantage(episodes, baseline, rank, credit)
    return [turn.advantage for episode in episodes for turn in episode.turns], figures


def step_credit(episodes: list[Episode], credit: str) -> tuple[list[float], dict[str, float]]:
    """GRPO's advantages where the whole step is compared."""
    chosen = {"group_size": 2, "advantage": "none", "baseline": "batch", "advantage_level": credit}
    grpo.advantage(grpo.GrpoConfig.model_validate({"grpo": chosen}), list(map(list, zip(*[iter(episodes)] * 2))))
    return [turn.advantage for episode in episodes for turn in episode.turns], {}


def critics_credit(episodes: list[Episode], accelerator: Accelerator) -> tuple[list[float], dict[str, float]]:
    """PPO's whitened advantages with scaled rewards, and its figures."""
    config = ppo.PpoConfig.model_validate(sections("ppo", ppo__scale_rewards=True))
    trainer: Any = micro_trainer(config, accelerator, lambda model, t: ActorCritic(model, t, False))
    torch.nn.init.constant_(accelerator.unwrap_model(trainer.policy).critic.head.weight, 0.1)
    _, figures = ppo.advantage(config, episodes, trainer, RunningScale(), 0.0)
    return [turn.advantage for episode in episodes for turn in episode.turns], figures


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
    rank, everyone = accelerator.process_index, some_episodes()
    mine = everyone[:4] if rank == 0 else everyone[4:]
    roles = role_credit(mine, rank), role_credit(mine, rank, "same_prompt")
    credit = *roles, step_credit(mine, "episode"), step_credit(mine, "same_prompt"), critics_credit(mine, accelerator)
    torch.save(credit, Path(sys.argv[1]) / f"credit_{rank}.pt")
    stop = StopSignal()
    asked = [stop.anywhere()]
    if accelerator.process_index == 1:
        signal.raise_signal(signal.SIGTERM)
    asked.append(stop.anywhere())
    torch.save((asked, stop.received), Path(sys.argv[1]) / f"stop_{accelerator.process_index}.pt")
    processes.end(0)
