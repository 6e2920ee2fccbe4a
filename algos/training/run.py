"""One run of one algorithm: its steps, starts, evaluations, logs, checkpoints and end."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from tqdm import tqdm

from algos.cluster import offline, processes
from algos.config.load import load
from algos.config.schema import Config, TrainConfig
from algos.data.episodes import Episode
from algos.data.rows import Row
from algos.data.tasks import EnvKey, Start
from algos.engines.make import check_engine
from algos.errors import ConfigError, die
from algos.evaluation.evaluator import Evaluator, check_evaluations
from algos.evaluation.plan import Phase
from algos.maths.seeds import first_episode_seed, sampling_generator, starts_rng
from algos.model.load import check_settings
from algos.report.page import last_line, write_report
from algos.rollout.curriculum import Curriculum, draw_starts
from algos.rollout.playing import ModelPlayer
from algos.rollout.replay import Replay
from algos.run_folder import checkpoints
from algos.run_folder.write import Tracker, claim_folder
from algos.training.interrupt import StopSignal
from algos.training.metrics import describe
from algos.training.optimizers import learning_rate
from algos.training.trainer import Stateful, Trainer

C = TypeVar("C", bound=Config)


def run_script(
    schema: type[C], check: Callable[[C], None], train: Callable[[C, dict[str, str], bool], None], argv: list[str]
) -> None:
    """Runs a trainer's script on its command line; a wrong setting gives one line and exit status 2."""
    try:
        try:
            config, sources, flags = load(schema, argv)
            check(config)
            if int(os.environ.get("RANK", 0)) == 0:
                claim_folder(config.run.dir, flags["resume"], flags["overwrite"])
            train(config, sources, flags["resume"])
        except ConfigError as error:
            die(error)
    except SystemExit as ending:
        processes.end(int(ending.code or 0))
        raise
    processes.end(0)


def check(config: TrainConfig, make: Callable[[EnvKey], Any]) -> None:
    """Checks the settings before a model loads; raises ConfigError.

    Args:
        make: Makes one environment to train in, or raises ConfigError.
    """
    check_common(config)
    if config.optim.ema_decay and config.engine.kind != "hf":
        raise ConfigError("optim.ema_decay: only engine.kind hf can sample from the averaged weights")
    for env in Curriculum(config.curriculum, config.env).envs:
        make(env)


def check_common(config: Config) -> None:
    """Checks what every trainer has: model, engine and evaluations."""
    offline.prepare(config)
    check_settings(config.model)
    check_engine(config)
    check_evaluations(config)


def check_divides(starts: int, what: str, minibatches: int, algorithm: str) -> None:
    """Raises ConfigError if ``starts`` (``what`` names them) do not divide over processes and minibatches."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if starts % (processes * minibatches):
        raise ConfigError(
            f"{starts} {what} do not divide over {processes} process(es) x {minibatches} {algorithm}.minibatches"
        )


class Run:
    """The steps, evaluations, logs and checkpoints of a run. The trainer holds the policy, the script the algorithm.

    Args:
        algorithm: The script's name, for the summary.
        sources: Where each setting came from.
        trainer: From :meth:`Trainer.start`; a resumed run continues from ``trainer.checkpoint``.
    """

    def __init__(self, algorithm: str, config: Config, sources: dict[str, str], trainer: Trainer) -> None:
        self._started = time.monotonic()
        self.algorithm, self.config, self.trainer = algorithm, config, trainer
        self.accelerator = trainer.accelerator
        fresh = {"step": 0, "episodes": 0, "wall_s": 0.0, "best": None}
        self.state: dict[str, Any] = fresh | trainer.checkpoint
        self._registered: dict[str, Stateful] = {}
        self._restored: dict[str, Any] = self.state.pop("registered", {})
        self.register_for_checkpointing(**trainer.parts)
        if isinstance(config, TrainConfig):
            self.curriculum, self.replay = Curriculum(config.curriculum, config.env), Replay(config.replay)
            self.register_for_checkpointing(curriculum=self.curriculum, replay=self.replay)
        self.tracker = Tracker(config, sources, self.accelerator, self.state["step"])
        self.evaluator = Evaluator(config, trainer.engine, trainer.chat, self.accelerator)
        self._earlier_s = self.state["wall_s"]
        self._times: defaultdict[str, float] = defaultdict(float)

    def register_for_checkpointing(self, **parts: Stateful) -> None:
        """Saves ``parts`` in every checkpoint from now on; in a resumed run restores them at once."""
        for name, part in parts.items():
            self._registered[name] = part
            if name in self._restored:
                part.load_state_dict(self._restored[name])

    def steps(self) -> Iterator[int]:
        """Yields the remaining steps; a new run first evaluates its starting model."""
        state, steps, trainer = self.state, self.config.run.max_steps, self.trainer
        trainer.sync(state["step"])
        if "before" not in state:
            state["before"], _ = self._evaluate(0, "before")
            self.accelerator.print(last_line("before", state["before"]))
        self._stop = StopSignal()
        self._bar = tqdm(initial=state["step"], total=steps, unit="step", disable=not self.accelerator.is_main_process)
        for step in range(state["step"], steps):
            self._times.clear()
            rate = learning_rate(trainer.optim, step, steps)
            for group in trainer.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            yield step
        self._bar.close()
        self._stop.restore()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to ``time/<name>_s``."""
        start = time.perf_counter()
        yield
        self._times[name] += time.perf_counter() - start

    def starts(self, step: int, n: int) -> list[Start]:
        """This process's share of a step's ``n`` starts. A resumed run draws the same ones."""
        seed, world = self.config.run.seed, self.accelerator.num_processes
        first = first_episode_seed(seed, step, n)
        starts = draw_starts(n, self.curriculum, self.replay, starts_rng(seed, step), first)
        share = n // world
        return starts[self.accelerator.process_index * share :][:share]

    def player(self, step: int) -> ModelPlayer:
        """The policy as it plays in a step, with this process's generator."""
        accelerator, trainer = self.accelerator, self.trainer
        generator = sampling_generator(self.config.run.seed, step, accelerator.process_index, accelerator.device)
        return ModelPlayer(trainer.engine, trainer.chat, self.config.rollout.temperature, generator)

    def end_step(
        self, step: int, rows: Sequence[Row], metrics: dict[str, float], episodes: Sequence[Episode] = ()
    ) -> None:
        """Evaluates if due, logs, and saves a checkpoint if due or if a signal asks the run to stop.

        Args:
            rows: This process's rows, written to a file if a metric is not finite.
            episodes: This process's episodes; those of all processes are gathered, logged and recorded.
        """
        state, trainer = self.state, self.trainer
        if trainer.average:
            trainer.average.update(trainer.optim.ema_decay)
        everyone: list[Episode] = gather_object(list(episodes))
        metrics = metrics | self._record(everyone)
        metrics |= getattr(trainer.engine, "metrics", {})
        metrics["optim/lr"] = trainer.optimizer.param_groups[0]["lr"]
        state |= {"step": step + 1, "episodes": state["episodes"] + len(everyone)}
        finite = trainer.is_finite()
        better = False
        if finite and self.evaluator.due(step + 1):
            with self.phase("evaluate"):
                result, evaluated = self._evaluate(step + 1, "during")
            metrics |= evaluated
            better = self._is_best(result)
        metrics |= self._timings(metrics.get("tokens/sampled", 0.0))
        self.tracker.log(step + 1, metrics)
        if everyone:
            self.tracker.write_episodes(step + 1, everyone, trainer.chat.pieces)
        self._bar.update()
        self._bar.set_postfix(shown(metrics))
        self._check_finite(step, metrics, finite, rows)
        if self._stop.anywhere():
            self.save()
            self._bar.close()
            self.tracker.close()
            self._stop.leave(f"stopped by {self._stop.received} after step {step + 1}; continue with --resume")
        if better or (step + 1) % self.config.run.save_every == 0:
            self.save()

    def finish(self) -> None:
        """Saves the last checkpoint, evaluates, and writes summary.json and the report."""
        state, config, trainer = self.state, self.config, self.trainer
        self.save()
        after, _ = self._evaluate(state["step"], "after")
        if trainer.average and self.accelerator.is_main_process:
            with trainer.averaged():
                trainer.model.save_pretrained(config.run.dir / "average")
                trainer.chat.tokenizer.save_pretrained(config.run.dir / "average")
        summary = {"algorithm": self.algorithm, "env": config.env.id, "steps": state["step"]}
        summary |= {"episodes": state["episodes"], "wall_s": self._wall_s()}
        self.tracker.write_summary(summary | {"before": state["before"], "after": after})
        self.tracker.close()
        if self.accelerator.is_main_process:
            page = config.run.dir / "report.html"
            write_report([config.run.dir], page)
            if command := offline.sync_command(config.run.dir):
                print(f"W&B logged offline; to upload from a machine with a network: {command}")
            print(f"{last_line('before', state['before'])}\n{last_line('after', after)}\n{page}")

    def _record(self, everyone: list[Episode]) -> dict[str, float]:
        """Records the episodes of all processes; returns the metrics of them, the curriculum and the replay buffer."""
        if not everyone:
            return {}
        for episode in everyone:
            episode.replayed = episode.start in self.replay
        self.curriculum.record(everyone)
        self.replay.record(everyone)
        metrics = describe([e for e in everyone if not e.replayed] or everyone)
        metrics |= self.curriculum.metrics() | self.replay.metrics()
        return metrics | {"tokens/sampled": float(sum(len(turn.action_ids) for e in everyone for turn in e.turns))}

    def _is_best(self, result: dict[str, Any]) -> bool:
        """Whether an evaluation is the best of the run so far; if so, it is recorded."""
        best = self.state["best"]
        better = bool(result["episodes"]) and (best is None or result["mean_return"] > best["mean_return"])
        if better:
            self.state["best"] = {"step": self.state["step"], "mean_return": result["mean_return"]}
        return better

    def _timings(self, tokens: float) -> dict[str, float]:
        spent = sum(self._times.values())
        metrics = {f"time/{name}_s": seconds for name, seconds in self._times.items()}
        metrics |= {f"time/{name}_share": seconds / spent for name, seconds in self._times.items()}
        return metrics | ({"time/tokens_per_second": tokens / spent} if tokens else {})

    def _check_finite(self, step: int, metrics: dict[str, float], finite: bool, rows: Sequence[Row]) -> None:
        """Ends the run if a number is not finite, and writes the rows of the step to a file."""
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)] + ["the policy"] * (not finite)
        if wrong:
            file = self.config.run.dir / f"not_finite_step_{step + 1}_process_{self.accelerator.process_index}.pt"
            torch.save(list(rows), file)
            die(f"step {step + 1}: not finite: {', '.join(wrong)}; the rows of this step are in {file}")

    def _evaluate(self, step: int, phase: Phase) -> tuple[dict[str, Any], dict[str, float]]:
        with self.trainer.averaged():
            return self.evaluator.run(step, phase)

    def _wall_s(self) -> float:
        return float(self._earlier_s + time.monotonic() - self._started)

    def save(self) -> None:
        """Writes a checkpoint of the current step. Every process calls it."""
        self.state["wall_s"] = self._wall_s()
        optimizer = self.trainer.optimizer_state()
        if self.accelerator.is_main_process:
            state = self.state | {"registered": {name: part.state_dict() for name, part in self._registered.items()}}
            state |= {"optimizer": optimizer, "processes": processes.describe(self.accelerator)}
            run, best = self.config.run, self.state["best"] and self.state["best"]["step"]
            tokenizer = self.trainer.chat.tokenizer
            checkpoints.save(run.dir, self.state["step"], self.trainer.model, tokenizer, state, run.keep, best)
        self.accelerator.wait_for_everyone()  # a process that ends also ends the one that is writing


def shown(metrics: dict[str, float]) -> dict[str, str]:
    """What the progress bar shows of a step."""
    names = {"reward": ("reward/mean", "+.3f"), "win": ("outcome/win", ".2f"), "loss": ("losses/total", ".3f")}
    chosen = ("reward", "win") if "reward/mean" in metrics else ("loss",)
    return {name: format(metrics[names[name][0]], names[name][1]) for name in chosen if names[name][0] in metrics}
