"""Run by torchrun: AdamW on weights that FSDP2 shards over gloo, and its state put together and taken apart again.

torchrun --nproc_per_node 2 tests/algos/sharded_optimizer.py FILE
"""

import copy
import sys

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from algos.cluster import processes, sharding


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def step(policy: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(number))
    policy(inputs).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def adamw(policy: nn.Module) -> torch.optim.AdamW:
    first, *others = policy.parameters()
    groups = [{"params": [first], "scale": 1.0}, {"params": others, "scale": 2.0}]
    return torch.optim.AdamW(groups, lr=1e-2)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    sharded = fully_shard(model(), mesh=mesh)
    optimizer = adamw(sharded)
    for number in range(2):
        step(sharded, optimizer, number)
    whole = [sharding.fsdp_state(sharded, optimizer)]
    torch.distributed.broadcast_object_list(whole)
    state = copy.deepcopy(whole[0])  # as if read from a checkpoint: the counters of steps are the optimizer's own
    weights = [parameter.full_tensor().detach() for parameter in sharded.parameters()]

    again = model()
    for parameter, value in zip(again.parameters(), weights, strict=True):
        parameter.data.copy_(value)
    again = fully_shard(again, mesh=mesh)
    resumed = adamw(again)
    sharding.load_fsdp_state(copy.deepcopy(state), again, resumed)
    step(again, resumed, 2)
    step(sharded, optimizer, 2)
    after = [parameter.full_tensor().detach() for parameter in sharded.parameters()]
    exact = [torch.equal(a, p.full_tensor()) for a, p in zip(after, again.parameters(), strict=True)]
    if torch.distributed.get_rank() == 0:
        torch.save((state, weights, after, exact), sys.argv[1])
    processes.end(0)
