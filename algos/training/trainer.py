"""The policy and what its updates need: reference, optimizer, averaged weights, the engine that samples from it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from algos.cluster import processes, sharding
from algos.config.schema import Config, EnvSection, PolicyUpdateSection, TrainConfig
from algos.data.batching import Batch, Scores, score_rows
from algos.data.episodes import Turn
from algos.data.rows import Row, to_rows
from algos.engines.base import Engine
from algos.engines.make import make_engine
from algos.evaluation.plan import longest
from algos.maths.losses import importance_weights
from algos.maths.seeds import shuffling_rng
from algos.model.chat import Chat
from algos.model.forward import Policy
from algos.model.load import load_model
from algos.model.reference import Reference, ReferenceModel
from algos.model.snapshot import Snapshot
from algos.run_folder import checkpoints
from algos.training.optimizers import make_optimizer
from algos.training.update import Loss, update
from algos.warm_start.embedded import tiny_model


class Stateful(Protocol):
    """Anything whose state is saved in checkpoints and restored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Trainer:
    """A policy that is trained. :class:`~algos.training.run.Run` has the steps, evaluations and files.

    Args:
        config: The run's settings: a ``TrainConfig``, or a class with the same sections.
        policy: A :class:`~algos.model.forward.Policy` with full weights.
        optimizer: Of the policy's parameters.
        reference: The policy's model -> the reference for the KL divergence; None: no reference.

    Attributes:
        policy: What is updated, prepared for the processes (DistributedDataParallel, DeepSpeed, FSDP2).
        full_model: The policy with full weights on every process, for sampling, scoring and saving.
        model: The causal language model of ``full_model``.
        average: The moving average of the weights (``optim.ema_decay``); None: no average.
        chat: The tokenizer and its chat template.
        engine: Samples replies from the policy.
        checkpoint: The state in the resumed checkpoint; for a new run only ``base``, the path of its model.
    """

    chat: Chat
    engine: Engine

    def __init__(
        self,
        config: Any,
        accelerator: Accelerator,
        policy: Any,
        optimizer: torch.optim.Optimizer,
        reference: Callable[[Any], Reference | None] = lambda model: None,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.optim = config.optim
        self.full_model = sharding.full_copy(policy, accelerator)
        self.model = self.full_model.model
        self.reference = reference(self.model)
        self.policy, self.optimizer = sharding.prepare(policy, optimizer, accelerator)
        self.average = Snapshot(self.model) if self.optim.ema_decay else None
        self.checkpoint: dict[str, Any] = {}

    @classmethod
    def start(
        cls,
        config: Any,
        resume: bool,
        *,
        reference: bool = False,
        wrap: Callable[[Any, float], nn.Module] = Policy,
        critic_lr: float | None = None,
        load: Callable[[str | Path], tuple[Any, Any]] | None = None,
    ) -> Trainer:
        """Makes the trainer of a run, from its newest checkpoint or from the model that the settings name.

        Args:
            load: Loads model and tokenizer from a path; None: :func:`~algos.model.load.load_model`.
            reference: Keep the starting model as the reference.
            wrap: Model and temperature -> the module that is trained.
            critic_lr: Peak learning rate of ``policy.critic``; None: ``optim.lr``.
        """
        run = config.run
        accelerator = processes.start(config.model, config.optim, run.trackers, run.dir / "tensorboard")
        newest = next(iter(checkpoints.all_of(run.dir)[-1:]), None) if resume else None
        state: dict[str, Any] = (
            checkpoints.load_state(newest) if newest else {"base": starting_model(config, accelerator)}
        )
        model, tokenizer = (load or partial(load_model, settings=config.model))(newest or state["base"])
        policy: Any = wrap(model, config.rollout.temperature)
        if newest and hasattr(policy, "critic"):
            policy.critic.load_state_dict(state["registered"]["critic"])
        base = state["base"] if newest else None

        def reference_of(model: Any) -> Reference | None:
            if not reference:
                return None
            return ReferenceModel.of(model, config.rollout.temperature, base).to(accelerator.device)

        optimizer = make_optimizer(config.optim, policy, critic_lr)
        trainer = cls(config, accelerator, policy, optimizer, reference_of)
        trainer.chat = Chat(tokenizer, config.rollout.thinking)
        trainer.engine = make_engine(config, trainer.model, trainer.chat, accelerator, longest(config))
        if newest:
            sharding.load_optimizer_state(state.pop("optimizer"), trainer.policy, trainer.optimizer, accelerator)
            accelerator.print(f"resuming {run.dir} after step {state['step']}")
            accelerator.print(processes.changed(state.pop("processes"), accelerator), end="")
        trainer.checkpoint = state
        return trainer

    @property
    def parts(self) -> dict[str, Stateful]:
        """The trainer's state in checkpoints, besides weights and optimizer."""
        found = {
            "average": self.average,
            "critic": getattr(self.full_model, "critic", None),
            "scaler": self.accelerator.scaler,
        }
        return {name: part for name, part in found.items() if part is not None}

    def score_turns(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        reference: bool = False,
        tis_cap: float | None = None,
        values: bool = False,
    ) -> None:
        """Writes the scores of the turns' tokens under models that stay fixed during the update.

        Args:
            conversations: Lists of turns; each has one player's turns of one episode.
            reference: Write ``reference_logprobs``.
            tis_cap: Write ``trainer_logprobs``, ``engine_difference`` and ``tis_weights``, at most ``tis_cap``.
            values: Write the critic's ``values``.
        """
        if not (reference or tis_cap or values):
            return
        rows = [to_rows(turns) for turns in conversations]
        with self.accelerator.autocast():
            scores = score_rows(
                [row for own in rows for row in own],
                lambda batch: self._scores(batch, reference, bool(tis_cap), values),
                self.optim.micro_batch,
                self.accelerator.device,
            )
        each = iter(scores)
        for turns, own in zip(conversations, rows, strict=True):
            columns = zip(*[next(each) for _ in own], strict=True)
            for name, parts in zip(Scores._fields, columns, strict=False):
                if parts[0] is not None:
                    write_column(turns, name, torch.cat(parts))
            for turn in turns if tis_cap else ():
                trainer, engine = torch.tensor([turn.trainer_logprobs, turn.logprobs], dtype=torch.float64)
                turn.tis_weights = importance_weights(trainer, engine, tis_cap or 0.0).tolist()
                turn.engine_difference = (trainer - engine).abs().tolist()

    def _scores(self, batch: Batch, reference: bool, logprobs: bool, values: bool) -> Scores:
        kept = self.reference(batch).logprobs if reference and self.reference is not None else None
        if not (logprobs or values):
            return Scores(reference_logprobs=kept)
        output = self.full_model(batch)
        return Scores(output.logprobs if logprobs else None, kept, output.values if values else None)

    def update(
        self,
        rows: Sequence[Row],
        loss: Loss,
        settings: PolicyUpdateSection,
        step: int,
        *,
        shuffle: bool = True,
        keep_prompts: bool = False,
        merge: bool = True,
    ) -> dict[str, float]:
        """Optimizer steps on this process's rows; see :func:`algos.training.update.update`."""
        rng = shuffling_rng(self.config.run.seed, step, self.accelerator.process_index)
        return update(
            rows,
            loss,
            self.policy,
            self.optimizer,
            self.accelerator,
            self.optim,
            settings,
            rng if shuffle else None,
            max_new_tokens=self.config.rollout.max_new_tokens,
            keep_prompts=keep_prompts,
            merge=merge,
        )

    def sync(self, version: int) -> None:
        """Gives the engine the current weights, which have had ``version`` steps. Every process calls it."""
        sharding.gather_weights(self.policy, self.full_model, self.accelerator)
        self.engine.sync(version)

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has its averaged weights, if there are any."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def is_finite(self) -> bool:
        """Whether the policy's output is finite: no metric shows the effect of the last optimizer step yet."""
        probe = Turn([0], [0], [0.0])
        self.score_turns([[probe]], tis_cap=1.0)
        return math.isfinite(probe.trainer_logprobs[0])

    def summed(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all processes."""
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").to(values.device)

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state for full weights. Every process calls it."""
        return sharding.optimizer_state(self.policy, self.optimizer, self.accelerator)


def write_column(turns: Sequence[Turn], name: str, values: Tensor) -> None:
    """Writes ``values``, ``[tokens]`` over all action tokens of ``turns``, into their column ``name``."""
    for turn, part in zip(turns, values.split([len(turn.action_ids) for turn in turns]), strict=True):
        setattr(turn, name, part.tolist())


def starting_model(config: Config, accelerator: Accelerator) -> str:
    """The path of a new run's model; `tiny` is warm-started first, by the main process."""
    if config.model.path != "tiny" or not isinstance(config, TrainConfig):
        return config.model.path
    with accelerator.main_process_first():
        return str(tiny_model(trained_envs(config), config.rollout.context, config.sft))


def trained_envs(config: TrainConfig) -> list[EnvSection]:
    """The training environments."""
    if not config.curriculum.stages:
        return [config.env]
    envs = [env for stage in config.curriculum.stages for env in stage.envs]
    return [EnvSection(id=env.id, **env.settings) for env in envs]
