"""Supervised fine-tuning on games of a scripted player: the warm start. It teaches the format, not the play.

    python algos/sft.py --config configs/sft_tictactoe_tiny.yaml

Loss: the mean of -log p(token) over the tokens of the demonstrated replies; over those of the prompts too with
``sft.completion_only_loss: false``.
"""

from __future__ import annotations

import sys
import time

from algos.config.load import check_arguments, load
from algos.config.schema import Config, OptimSection, SftSection


class SftConfig(Config):
    sft: SftSection = SftSection()

    @property
    def optim(self) -> OptimSection:
        """The optimizer's settings, from the section ``sft``."""
        return OptimSection(lr=self.sft.lr, micro_batch=self.sft.micro_batch)


if __name__ == "__main__":
    check_arguments(SftConfig)  # a usage error ends here, before torch is imported

from accelerate import Accelerator
from tqdm import tqdm

from algos.cluster.offline import prepare
from algos.engines.hf import HFEngine
from algos.errors import ConfigError, die
from algos.evaluation.evaluator import evaluate
from algos.model.chat import Chat
from algos.model.load import check_settings, load_model
from algos.report.page import last_line, write_report
from algos.rollout.environments import make_envs
from algos.rollout.single_agent import EpisodeRunner
from algos.run_folder import checkpoints as checkpoint
from algos.run_folder.write import Tracker, claim_folder
from algos.warm_start.demonstrations import as_rows, demonstrate
from algos.warm_start.embedded import untrained_tiny
from algos.warm_start.fit import fit


def train(config: SftConfig, sources: dict[str, str]) -> None:
    """Demonstrate, fit, log, evaluate, checkpoint. ``model.path: tiny`` starts from random weights."""
    started = time.monotonic()
    accelerator = Accelerator(log_with=config.run.trackers or None, project_dir=config.run.dir / "tensorboard")
    conversations = demonstrate(config.env, config.sft, config.run.seed)
    if config.model.path == "tiny":
        model, tokenizer = untrained_tiny(conversations, config.run.seed)
    else:
        model, tokenizer = load_model(config.model.path, config.model)
    model.to(accelerator.device)
    chat = Chat(tokenizer, config.rollout.thinking)
    engine = HFEngine(model, chat.stop_ids, config.rollout.max_new_tokens)
    rollout = EpisodeRunner.of(config, make_envs(config.env, config.rollout.episodes), engine, chat)
    tracker = Tracker(config, sources, accelerator, start_step=0)
    before = evaluate(rollout, config.eval.episodes, config.eval.temperature, accelerator)
    rows = as_rows(conversations, chat, config.rollout.context, config.sft.completion_only_loss)
    bar = tqdm(fit(model, rows, config.sft, config.run.seed), total=config.sft.steps)
    for step, loss in enumerate(bar, 1):
        tracker.log(step, {"losses/sft": loss})
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    checkpoint.save(config.run.dir, config.sft.steps, model, tokenizer, {}, config.run.keep)
    after = evaluate(rollout, config.eval.episodes, config.eval.temperature, accelerator)
    summary = {"algorithm": "sft", "env": config.env.id, "steps": config.sft.steps, "episodes": config.sft.episodes}
    tracker.write_summary(summary | {"wall_s": time.monotonic() - started, "before": before, "after": after})
    tracker.close()
    write_report([config.run.dir], config.run.dir / "report.html")
    print(f"{last_line('before', before)}\n{last_line('after', after)}\n{config.run.dir / 'report.html'}")


def main(argv: list[str]) -> None:
    try:
        config, sources, flags = load(SftConfig, argv)
        prepare(config)
        check_settings(config.model)
        if config.model.path == "tiny" and config.model.lora_rank:
            raise ConfigError("model.lora_rank: tiny starts from random weights here; adapters need a trained model")
        make_envs(config.env, 1)
        claim_folder(config.run.dir, resume=False, overwrite=flags["overwrite"])
        train(config, sources)
    except ConfigError as error:
        die(error)


if __name__ == "__main__":
    main(sys.argv[1:])
