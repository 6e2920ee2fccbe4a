"""Supervised fine-tuning on games of a scripted player: the warm start. It teaches the reply format.

    python algos/sft.py --config configs/sft_tictactoe_tiny.yaml
    llm-gym train sft --config configs/sft_tictactoe_tiny.yaml --model.path Qwen/Qwen3-0.6B

Loss: the mean of -log p(token) over the tokens of the demonstrated replies; with ``sft.completion_only_loss: false``
also over the prompt tokens. ``model.path: tiny`` starts from random weights.
"""

from __future__ import annotations

import sys
from typing import Any

from pydantic import model_validator

from algos.config.load import check_arguments
from algos.config.schema import Config, OptimSection, SftSection


class SftConfig(Config):
    sft: SftSection = SftSection()

    @model_validator(mode="after")
    def _steps(self) -> SftConfig:
        """``run.max_steps`` is ``sft.steps`` by default; a lower value ends the training early."""
        if "max_steps" not in self.run.model_fields_set:
            self.run = self.run.model_copy(update={"max_steps": self.sft.steps})
        if self.run.max_steps > self.sft.steps:
            raise ValueError(
                f"run.max_steps {self.run.max_steps} is more than sft.steps {self.sft.steps}: raise sft.steps"
            )
        return self

    @property
    def optim(self) -> OptimSection:
        """The optimizer's settings, from the section ``sft``."""
        return OptimSection(lr=self.sft.lr, micro_batch=self.sft.micro_batch)


if __name__ == "__main__":
    check_arguments(SftConfig)  # a usage error ends here, before torch is imported

from torch import Tensor

from algos.config.schema import PolicyUpdateSection
from algos.data.batching import Batch
from algos.errors import ConfigError
from algos.model.forward import Policy
from algos.model.load import load_model
from algos.rollout.environments import make_env
from algos.training import run as runs
from algos.training.run import Run
from algos.training.trainer import Trainer
from algos.warm_start.demonstrations import as_rows, demonstrate
from algos.warm_start.embedded import untrained_tiny
from algos.warm_start.fit import draw_rows, learning_rate


def check(config: SftConfig) -> None:
    """Checks the settings before a model loads; raises ConfigError."""
    if config.model.path == "tiny" and config.model.lora_rank:
        raise ConfigError("model.lora_rank: model.path tiny has random weights here; adapters need a trained model")
    make_env(config.env)
    runs.check_common(config)


def train(config: SftConfig, sources: dict[str, str], resume: bool) -> None:
    """The whole algorithm: demonstrate, then update; log, evaluate, checkpoint."""
    sft, seed = config.sft, config.run.seed
    demonstrations = demonstrate(config.env, sft, seed)

    def load(path: Any) -> tuple[Any, Any]:
        return untrained_tiny(demonstrations, seed) if path == "tiny" else load_model(path, config.model)

    # The loss is taken at temperature 1, also where replies are sampled at another.
    trainer = Trainer.start(config, resume, load=load, wrap=lambda model, _: Policy(model, temperature=1.0))
    run = Run("sft", config, sources, trainer)
    run.state["episodes"] = len(demonstrations)
    rows = as_rows(demonstrations, trainer.chat, config.rollout.context, sft.completion_only_loss)

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return -trainer.policy(batch).logprobs, {}

    for step in run.steps():
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(sft, step)
        with run.phase("update"):
            world, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
            share = draw_rows(rows, sft, seed, step)[rank::world]
            metrics = trainer.update(share, loss, PolicyUpdateSection(), step, shuffle=False, merge=False)
        with run.phase("sync"):
            trainer.sync(step + 1)
        run.end_step(step, share, metrics | {"losses/sft": metrics["losses/total"]})
    run.finish()


def main(argv: list[str]) -> None:
    runs.run_script(SftConfig, check, train, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
