"""Weights and optimizer states that processes hold in parts (ZeRO, FSDP2), put together and taken apart again.

Every process has to call these functions, and checkpoints hold what is whole: a run resumes on any number of processes,
under any of the ways to share.
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
    """Whether a process holds only a part of each weight."""
    return zero_stage(accelerator) == 3 or accelerator.distributed_type == DistributedType.FSDP


def in_step(accelerator: Accelerator) -> bool:
    """Whether processes have to run the same layers in the same order."""
    return holds_parts(accelerator) or zero_stage(accelerator) == 2


def full_copy(policy: Any, accelerator: Accelerator) -> Any:
    """What to sample from, to look at and to save: a copy of whole weights where they will be sharded, else ``policy``.

    Sharded weights are gathered by all processes together; sampling takes a different number of steps on each.
    Called before ``policy`` is prepared; :func:`gather_weights` keeps it up to date.
    """
    if not holds_parts(accelerator):
        return policy
    whole = copy.deepcopy(policy).to(accelerator.device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    if half and zero_stage(accelerator):  # as DeepSpeed does with the sharded ones
        for parameter in whole.parameters():
            parameter.data = parameter.data.to(half)
    return whole


def prepare(policy: Any, optimizer: Any, accelerator: Accelerator) -> tuple[Any, Any]:
    """``accelerator.prepare``, after which buffers are as they were: DeepSpeed rounds rotary frequencies to bf16.

    ZeRO-2, ZeRO-3 and FSDP2 communicate layer by layer, in the order in which a process comes to them, which must be
    the same on all. Rows then run whole, in one pass: how often a layer runs over shared prompts depends on the rows,
    and ZeRO-2 would add up gradients of different layers without a word. Where weights are sharded, the output layer
    runs once over all tokens of a micro-batch, not chunk by chunk.

    Each of the optimizer's groups keeps the number of its parameters, as `size`: DeepSpeed has one flat tensor a group.
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
    """AdamW's state as ``torch.optim`` gives it for whole weights, and under `master` DeepSpeed's fp32 weights."""
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
    """Gives the optimizer back what :func:`optimizer_state` returned, maybe on another number of processes."""
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
            _set(parameter, value.to(accelerator.device), name or None)


def fsdp_state(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer of FSDP2's weights, as ``torch.optim`` gives it for whole weights; {} but on rank 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    named: dict[str, Any] = get_optimizer_state_dict(policy, optimizer, options=options)
    if not named:
        return {}
    number = {name: i for i, name in enumerate(_names(policy))}
    states = {number[name]: state for name, state in named["state"].items()}
    groups = [group | {"params": [number[name] for name in group["params"]]} for group in named["param_groups"]]
    return {"state": states, "param_groups": groups}


def load_fsdp_state(state: dict[str, Any], policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimizer of FSDP2's weights the state of whole weights."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    names = _names(policy)
    named: dict[str, Any] = {"state": {names[number]: values for number, values in state["state"].items()}}
    named["param_groups"] = [g | {"params": [names[number] for number in g["params"]]} for g in state["param_groups"]]
    set_optimizer_state_dict(policy, optimizer, named, options=StateDictOptions(full_state_dict=True))


def _names(policy: nn.Module) -> list[str]:
    return [name for name, parameter in policy.named_parameters() if parameter.requires_grad]


def _flat_parts(optimizer: Any) -> list[Tensor]:
    """This process's part of the fp32 weights, as DeepSpeed's optimizer holds them: one tensor a group."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        return list(optimizer.fp32_partitioned_groups_flat)
    return [part for group in optimizer.optimizer.param_groups for part in group["params"]]


def _set(parameter: Any, value: Tensor, moment: str | None) -> None:
    """Writes this process's part of ``value`` into the fp32 weight or one of its moments."""
    if not hasattr(parameter, "ds_id"):
        parameter.set_full_hp_param(value, moment)
        return
    parts = torch.distributed.get_world_size()
    size = -(-parameter.ds_numel // parts)
    padded = torch.nn.functional.pad(value.flatten(), (0, size * parts - value.numel()))
    mine = padded[size * torch.distributed.get_rank() :][:size]
    parameter._z3_optimizer.set_local_hp_param(mine, parameter, moment)
