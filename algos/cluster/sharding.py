"""Gathers and shards weights and optimizer states that are divided over processes (ZeRO, FSDP2).

Every process must call these functions. Checkpoints hold whole tensors, so a run resumes on any number of processes and
under any way to share.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def zero_stage(accelerator: Accelerator) -> int:
    """DeepSpeed's stage; 0 without DeepSpeed."""
    plugin: Any = accelerator.deepspeed_plugin
    return int(plugin.zero_stage) if accelerator.distributed_type == DistributedType.DEEPSPEED else 0


def holds_parts(accelerator: Accelerator) -> bool:
    """Whether each process holds only a part of each weight."""
    return zero_stage(accelerator) == 3 or accelerator.distributed_type == DistributedType.FSDP


def in_step(accelerator: Accelerator) -> bool:
    """Whether all processes must run the same layers in the same order."""
    return holds_parts(accelerator) or zero_stage(accelerator) == 2


def full_copy(policy: Any, accelerator: Accelerator) -> Any:
    """The policy to sample from, score with and save: a copy of the whole weights if they will be sharded.

    Sharded weights could only be gathered by all processes together, and sampling takes a different number of steps on
    each. Called before ``policy`` is prepared; :func:`gather_weights` updates the copy.
    """
    if not holds_parts(accelerator):
        return policy
    whole = copy.deepcopy(policy).to(accelerator.device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    if half and zero_stage(accelerator):  # as DeepSpeed does with the sharded weights
        for parameter in whole.parameters():
            parameter.data = parameter.data.to(half)
    return whole


def prepare(policy: Any, optimizer: Any, accelerator: Accelerator) -> tuple[Any, Any]:
    """``accelerator.prepare``, then restores the buffers, because DeepSpeed rounds rotary frequencies to bf16.

    ZeRO-2, ZeRO-3 and FSDP2 communicate layer by layer, in the order in which a process runs them, which must be the
    same on all. Prompts are therefore not shared between rows: the number of passes would depend on the rows, and
    ZeRO-2 would silently add up gradients of different layers. Where weights are sharded, the output layer runs once
    over all tokens of a micro-batch, not chunk by chunk.

    Each of the optimizer's groups keeps the number of its parameters as `size`: DeepSpeed has one flat tensor a group.
    """
    for group in optimizer.param_groups:
        group["size"] = len(group["params"])
    policy.share_prompts = policy.share_prompts and not in_step(accelerator)
    if holds_parts(accelerator):
        policy.chunk = sys.maxsize
    buffers = {name: buffer.clone() for name, buffer in policy.named_buffers()}
    prepared, optimizer = accelerator.prepare(policy, optimizer)
    for name, buffer in policy.named_buffers():
        if name in buffers:
            buffer.data = buffers[name].to(buffer.device)
    return prepared, optimizer


@torch.no_grad()
def gather_weights(policy: Any, whole: Any, accelerator: Accelerator) -> None:
    """Copies the trained weights of the prepared ``policy`` into ``whole``, one at a time."""
    sharded = accelerator.unwrap_model(policy)
    if sharded is whole:
        return
    for part, parameter in zip(sharded.parameters(), whole.parameters(), strict=True):
        if part.requires_grad:
            parameter.copy_(_full(part))


def _full(part: Any) -> Tensor:
    if hasattr(part, "full_tensor"):
        return part.full_tensor()
    import deepspeed

    with deepspeed.zero.GatheredParameters([part]):
        return part.data.clone()


def trained(policy: nn.Module) -> list[Any]:
    """The parameters that are trained, in the order that the optimizer is made with."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def optimizer_state(policy: Any, optimizer: Any, accelerator: Accelerator) -> dict[str, Any]:
    """AdamW's state in the form of ``torch.optim`` for whole weights; under `master` DeepSpeed's fp32 weights."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return fsdp_state(accelerator.unwrap_model(policy), optimizer.optimizer)
    if not zero_stage(accelerator):
        return optimizer.state_dict()
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    inner, parameters = optimizer.optimizer.optimizer, trained(policy)
    states = [inner.state[flat] for flat in _flat_parts(optimizer.optimizer)]
    numbers = iter(range(len(parameters)))
    groups = [g | {"params": [next(numbers) for _ in range(g["size"])]} for g in inner.param_groups]
    whole: dict[str, Any] = {"state": {}, "param_groups": groups}
    if accelerator.mixed_precision != "no":
        whole["master"] = [safe_get_full_fp32_param(parameter).cpu() for parameter in parameters]
    if any(states):
        step = next(state["step"] for state in states if state)
        for number, parameter in enumerate(parameters):
            moments = {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in MOMENTS}
            whole["state"][number] = {"step": torch.as_tensor(step, dtype=torch.float32), **moments}
    return whole


def load_optimizer_state(state: dict[str, Any], policy: Any, optimizer: Any, accelerator: Accelerator) -> None:
    """Restores what :func:`optimizer_state` returned, perhaps on another number of processes."""
    if accelerator.distributed_type == DistributedType.FSDP:
        load_fsdp_state(state, accelerator.unwrap_model(policy), optimizer.optimizer)
        return
    parameters = trained(policy)
    master: list[Tensor] | None = state.pop("master", None)
    if not zero_stage(accelerator):
        for parameter, value in zip(parameters, master or (), strict=bool(master)):
            parameter.data.copy_(value)
        optimizer.load_state_dict(state)
        return
    if not state["state"]:
        return
    inner = optimizer.optimizer.optimizer
    for flat in _flat_parts(optimizer.optimizer):
        inner.state[flat] = {name: torch.zeros_like(flat) for name in MOMENTS}
        inner.state[flat]["step"] = state["state"][0]["step"].clone()
    if hasattr(optimizer.optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer.optimizer._lazy_init_hp_params_optimizer_state()
    for number, parameter in enumerate(parameters):
        values = {name: state["state"][number][name] for name in MOMENTS}
        if master:
            values[""] = master[number]
        for name, value in values.items():
            _set_part(parameter, value.to(accelerator.device), name or None)


def fsdp_state(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of FSDP2's optimizer in the form of ``torch.optim`` for whole weights; {} on ranks other than 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    named: dict[str, Any] = get_optimizer_state_dict(policy, optimizer, options=options)
    return _renamed(named, {name: number for number, name in enumerate(_names(policy))}) if named else {}


def load_fsdp_state(state: dict[str, Any], policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restores the state of FSDP2's optimizer from one for whole weights."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    named = _renamed(state, dict(enumerate(_names(policy))))
    set_optimizer_state_dict(policy, optimizer, named, options=StateDictOptions(full_state_dict=True))


def _names(policy: nn.Module) -> list[str]:
    return [name for name, parameter in policy.named_parameters() if parameter.requires_grad]


def _renamed(state: dict[str, Any], keys: dict[Any, Any]) -> dict[str, Any]:
    """An optimizer's state with other keys for its parameters."""
    groups = [group | {"params": [keys[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {keys[key]: moments for key, moments in state["state"].items()}, "param_groups": groups}


def _flat_parts(optimizer: Any) -> list[Tensor]:
    """This process's part of the fp32 weights in DeepSpeed's optimizer: one flat tensor ``[elements]`` a group."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        return list(optimizer.fp32_partitioned_groups_flat)
    return [part for group in optimizer.optimizer.param_groups for part in group["params"]]


def _set_part(parameter: Any, value: Tensor, moment: str | None) -> None:
    """Writes this process's part of ``value``, of the parameter's shape, into its fp32 weight or one of its moments.

    ZeRO-1 and ZeRO-2 cut the part out themselves. ZeRO-3 holds ``[size]`` of the flattened parameter on each process,
    size = ceil(elements / processes), the last parts filled with zeros. DeepSpeed's own function cuts without filling
    and fails where the elements do not divide evenly; so the value is filled here, ``[processes * size]``, and cut.
    """
    if not hasattr(parameter, "ds_id"):  # ZeRO-1, ZeRO-2
        parameter.set_full_hp_param(value, moment)
        return
    processes, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    size = -(-parameter.ds_numel // processes)
    filled = torch.nn.functional.pad(value.flatten(), (0, size * processes - value.numel()))
    parameter._z3_optimizer.set_local_hp_param(filled[size * rank :][:size], parameter, moment)
