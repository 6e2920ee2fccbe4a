"""What every trainer starts with and ends with: model, reference, optimizer, engine, records of the run.

The algorithms are in grpo.py, ppo.py and spiral.py; nothing here decides what is learned.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from tqdm import tqdm

from algos.maths.muon import Muon
from algos.model.forward import Policy, causal_lm
from algos.model.load import check_settings, load_model
from algos.model.reference import Reference
from algos.model.snapshot import Snapshot
from algos.rollout.batching import Batch, annotate
from algos.rollout.chat import Chat
from algos.rollout.engine import check_engine, make_engine
from algos.rollout.records import Episode, Row
from algos.rollout.tasks import EnvSpec, Task
from algos.run import checkpoint, offline, processes, sharding
from algos.run.config import Config, ConfigError, EnvSection, OptimSection, die, load
from algos.run.curriculum import Curriculum, CurriculumSection, draw_tasks
from algos.run.evaluate import Evaluator, Phase, check_evaluations, longest
from algos.run.figures import describe
from algos.run.interrupt import StopSignal
from algos.run.optimise import learning_rate
from algos.run.replay import Replay, ReplaySection
from algos.run.report import last_line, write_report
from algos.run.tracking import Tracker, claim_folder
from algos.sft import SftSection, tiny_model


class TrainConfig(Config):
    """What the three trainers have in common; each adds its own section."""

    optim: OptimSection = OptimSection()
    curriculum: CurriculumSection = CurriculumSection()
    replay: ReplaySection = ReplaySection()
    sft: SftSection = SftSection()  # how `model.path: tiny` is warm-started


def check(config: TrainConfig, make: Callable[[EnvSpec], Any]) -> None:
    """Everything that can be known to be wrong before a model loads.

    Args:
        make: Makes one environment to train in, or raises ConfigError.
    """
    offline.prepare(config)
    check_settings(config.model)
    check_engine(config)
    if config.optim.average_decay and config.engine.kind != "hf":
        raise ConfigError("optim.average_decay: only engine.kind hf can sample from the averaged weights")
    for env in Curriculum(config.curriculum, config.env).envs:
        make(env)
    check_evaluations(config)


C = TypeVar("C", bound=TrainConfig)


def run_script(
    schema: type[C], check: Callable[[C], None], train: Callable[[C, dict[str, str], bool], None], argv: list[str]
) -> None:
    """What a trainer's script does with its command line; what is wrong is one line and exit status 2."""
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


def played(config: TrainConfig) -> list[EnvSection]:
    """The environments that are trained in."""
    if not config.curriculum.stages:
        return [config.env]
    envs = [env for stage in config.curriculum.stages for env in stage.envs]
    return [EnvSection(id=env.id, **env.settings) for env in envs]


def check_divides(starts: int, what: str, minibatches: int, algorithm: str) -> None:
    """Refuses ``starts`` (``what`` says what they are) that processes and minibatches cannot share equally."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if starts % (processes * minibatches):
        raise ConfigError(
            f"{starts} {what} do not divide over {processes} process(es) x {minibatches} {algorithm}.minibatches"
        )


class Stateful(Protocol):
    """What a resumed run must find as it was."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Divergence(Protocol):
    """What the policy is held near: :class:`algos.model.reference.Reference`, :class:`algos.model.snapshot.Magnet`."""

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]: ...

    def hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]: ...


class Learner:
    """One run of one algorithm.

    Args:
        reference: Keep the starting model, as ``reference``, to measure the divergence from it.
        wrap: Model and temperature -> the module that is trained.
        critic_lr: Peak learning rate of ``policy.critic``; None: that of the rest.
    """

    def __init__(
        self,
        algorithm: str,
        config: TrainConfig,
        sources: dict[str, str],
        resume: bool,
        *,
        reference: bool = False,
        wrap: Callable[[Any, float], nn.Module] = Policy,
        critic_lr: float | None = None,
    ) -> None:
        self._started = time.monotonic()
        self.algorithm, self.config = algorithm, config
        self.accelerator = processes.start(
            config.model, config.optim, config.run.trackers, config.run.dir / "tensorboard"
        )
        newest = checkpoint.all_of(config.run.dir)[-1:] if resume else []
        self.state: dict[str, Any] = {"step": 0, "episodes": 0, "wall_s": 0.0, "base": config.model.path, "best": None}
        if newest:
            self.state = checkpoint.load_state(newest[0])
        elif config.model.path == "tiny":
            with self.accelerator.main_process_first():
                self.state["base"] = str(tiny_model(played(config), config.rollout.context, config.sft))
        model, self.tokenizer = load_model(newest[0] if newest else self.state["base"], config.model)
        policy: Any = wrap(model, config.rollout.temperature)
        self._kept: dict[str, Stateful] = {}
        self._restored: dict[str, Any] = self.state.pop("kept", {})
        if newest and hasattr(policy, "critic"):
            policy.critic.load_state_dict(self._restored["critic"])
        self.whole = sharding.whole_copy(policy, self.accelerator)
        self.model = self.whole.model
        self.reference: Divergence | None = None
        if reference:
            base = self.state["base"] if newest else None
            self.reference = Reference.of(self.model, config.rollout.temperature, base).to(self.accelerator.device)
        groups = [{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}]
        if critic := getattr(policy, "critic", None):
            own = [p for p in critic.parameters() if p.requires_grad]
            groups.append({"params": own, "scale": (critic_lr or config.optim.lr) / config.optim.lr})
        decay = config.optim.weight_decay
        settings: dict[str, Any] = {"lr": config.optim.lr, "betas": (0.9, 0.99), "weight_decay": decay}
        optimizer: Any = (
            Muon(groups, matrices(model), **settings)
            if config.optim.name == "muon"
            else torch.optim.AdamW(groups, **settings)
        )
        self.policy, self.optimizer = sharding.prepare(policy, optimizer, self.accelerator)
        self.chat = Chat(self.tokenizer, config.rollout.thinking)
        self.engine = make_engine(config, self.model, self.chat, self.accelerator, longest(config))
        if newest:
            sharding.load_optimizer_state(self.state.pop("optimizer"), self.policy, self.optimizer, self.accelerator)
            self.accelerator.print(f"resuming {config.run.dir} after step {self.state['step']}")
            self.accelerator.print(processes.changed(self.state.pop("processes"), self.accelerator), end="")
        self.curriculum, self.replay = Curriculum(config.curriculum, config.env), Replay(config.replay)
        self.keep(curriculum=self.curriculum, replay=self.replay)
        self.average = Snapshot(self.model) if config.optim.average_decay else None
        if self.average:
            self.keep(average=self.average)
        if critic:
            self.keep(critic=self.whole.critic)
        if self.accelerator.scaler is not None:
            self.keep(scaler=self.accelerator.scaler)
        self.tracker = Tracker(config, sources, self.accelerator, self.state["step"])
        self.evaluator = Evaluator(config, self.engine, self.chat, self.accelerator)
        self._earlier_s = self.state["wall_s"]
        self._times: defaultdict[str, float] = defaultdict(float)

    def keep(self, **parts: Stateful) -> None:
        """Has ``parts`` in every checkpoint from now on; in a resumed run they are at once as they were."""
        for name, part in parts.items():
            self._kept[name] = part
            if name in self._restored:
                part.load_state_dict(self._restored[name])

    def steps(self) -> Iterator[int]:
        """The steps that are left, after an evaluation of the model that the run began with."""
        state, steps = self.state, self.config.run.max_steps
        self.sync(state["step"])
        if "before" not in state:
            state["before"], _ = self._evaluate(0, "before")
            self.accelerator.print(last_line("before", state["before"]))
        self._stop = StopSignal()
        self._bar = tqdm(initial=state["step"], total=steps, unit="step", disable=not self.accelerator.is_main_process)
        for step in range(state["step"], steps):
            self._times.clear()
            rate = learning_rate(self.config.optim, step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            yield step
        self._bar.close()
        self._stop.restore()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time spent in it towards ``time/<name>_s``."""
        start = time.perf_counter()
        yield
        self._times[name] += time.perf_counter() - start

    def starts(self, step: int, n: int) -> list[Task]:
        """This process's share of a step's ``n`` starts. Seeds are a function of the step: a resumed run meets them."""
        seed, world = self.config.run.seed, self.accelerator.num_processes
        rng = np.random.default_rng([seed, step, 1])
        first = (seed + 1) * 10**9 + step * n
        tasks = draw_tasks(n, self.curriculum, self.replay, rng, first)
        share = n // world
        return tasks[self.accelerator.process_index * share :][:share]

    def generator(self, step: int) -> torch.Generator:
        """What this process samples a step's replies with."""
        entropy = [self.config.run.seed, step, self.accelerator.process_index]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def shuffler(self, step: int) -> np.random.Generator:
        """What this process shuffles a step's rows with."""
        return np.random.default_rng([self.config.run.seed, step, self.accelerator.process_index])

    def annotate(
        self, rows: Sequence[Row], *, reference: bool = False, importance_cap: float | None = None, values: bool = False
    ) -> None:
        """Gives rows what a loss needs from models that do not move during the update, before it begins.

        Args:
            reference: Column ``reference``: log-probabilities under the reference.
            importance_cap: Columns ``importance`` (truncated, arXiv 2402.03300's ratio is then against the trainer's
                own old log-probabilities, which take the place of the engine's) and ``engine_difference``.
            values: Column ``values``: the critic's estimate before each token.
        """
        policy = self.whole

        def columns(batch: Batch) -> dict[str, torch.Tensor]:
            found: dict[str, torch.Tensor] = {}
            if reference and self.reference is not None:
                found["reference"] = self.reference(batch)[0]
            if importance_cap or values:
                logprobs, _, *critic = policy(batch)
                found |= {"old": logprobs} | ({"values": critic[0]} if values else {})
            return found

        if reference or importance_cap or values:
            with self.accelerator.autocast():
                annotate(rows, columns, self.config.optim.micro_batch, self.accelerator.device)
        for row in rows if importance_cap or values else ():
            trainer = row.columns.pop("old")
            if importance_cap:
                sampled = row.old_logprobs
                row.columns["importance"] = [min(math.exp(a - b), importance_cap) for a, b in zip(trainer, sampled)]
                row.columns["engine_difference"] = [abs(a - b) for a, b in zip(trainer, sampled)]
                row.old_logprobs = trainer

    def end_step(self, step: int, episodes: Sequence[Episode], rows: Sequence[Row], metrics: dict[str, float]) -> None:
        """Evaluates where it is due, logs, and leaves a checkpoint where it is due or a signal asked for it.

        Args:
            episodes: This process's; those of all processes are gathered, described, written and recorded.
            rows: This process's, saved should a metric not be finite.
        """
        state, config = self.state, self.config
        if self.average:
            self.average.renew(config.optim.average_decay)
        everyone: list[Episode] = gather_object(list(episodes))
        for episode in everyone:
            episode.replayed = episode.task in self.replay
        self.curriculum.record(everyone)
        self.replay.record(everyone)
        metrics = metrics | describe([e for e in everyone if not e.replayed] or everyone)
        metrics |= self.curriculum.metrics() | self.replay.metrics()
        metrics["tokens/sampled"] = float(sum(len(turn.action_ids) for e in everyone for turn in e.turns))
        metrics |= getattr(self.engine, "metrics", {})
        metrics["optim/lr"] = self.optimizer.param_groups[0]["lr"]
        state |= {"step": step + 1, "episodes": state["episodes"] + len(everyone)}
        better, sound = False, self._sound()
        if sound and self.evaluator.due(step + 1):
            with self.phase("evaluate"):
                result, evaluated = self._evaluate(step + 1, "during")
            metrics |= evaluated
            better = bool(result["episodes"]) and (
                state["best"] is None or result["mean_return"] > state["best"]["mean_return"]
            )
            if better:
                state["best"] = {"step": step + 1, "mean_return": result["mean_return"]}
        metrics |= {f"time/{name}_s": seconds for name, seconds in self._times.items()}
        spent = sum(self._times.values())
        metrics |= {f"time/{name}_share": seconds / spent for name, seconds in self._times.items()}
        metrics["time/tokens_per_second"] = metrics["tokens/sampled"] / spent
        self.tracker.log(step + 1, metrics)
        self.tracker.write_episodes(step + 1, everyone, self.chat.pieces)
        self._bar.update()
        self._bar.set_postfix(reward=f"{metrics['reward/mean']:+.3f}", win=f"{metrics['outcome/win']:.2f}")
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)] + ["the policy"] * (not sound)
        if wrong:
            file = config.run.dir / f"not_finite_step_{step + 1}_process_{self.accelerator.process_index}.pt"
            torch.save(list(rows), file)
            die(f"step {step + 1}: not finite: {', '.join(wrong)}; the rows that it trained on are in {file}")
        if self._stop.anywhere():
            self._save()
            self._bar.close()
            self.tracker.close()
            self._stop.leave(f"stopped by {self._stop.received} after step {step + 1}; go on with --resume")
        if better or (step + 1) % config.run.save_every == 0:
            self._save()

    def finish(self) -> None:
        """The last checkpoint and evaluation, summary.json and the report."""
        state, config = self.state, self.config
        self._save()
        after, _ = self._evaluate(state["step"], "after")
        if self.average and self.accelerator.is_main_process:
            with self.average.worn():
                self.model.save_pretrained(config.run.dir / "average")
                self.tokenizer.save_pretrained(config.run.dir / "average")
        summary = {"algorithm": self.algorithm, "env": config.env.id, "steps": state["step"]}
        summary |= {"episodes": state["episodes"], "wall_s": self._wall_s()}
        self.tracker.write_summary(summary | {"before": state["before"], "after": after})
        self.tracker.close()
        if self.accelerator.is_main_process:
            write_report([config.run.dir], config.run.dir / "report.html")
            if command := offline.sync_command(config.run.dir):
                print(f"W&B logged offline; where there is a network: {command}")
            page = config.run.dir / "report.html"
            print(f"{last_line('before', state['before'])}\n{last_line('after', after)}\n{page}")

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of ``values`` over all processes."""
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").to(values.device)

    def _evaluate(self, step: int, phase: Phase) -> tuple[dict[str, Any], dict[str, float]]:
        with self.average.worn() if self.average else contextlib.nullcontext():
            return self.evaluator.run(step, phase)

    def _sound(self) -> bool:
        """Whether the policy still answers with numbers: the last optimizer step shows in no metric yet."""
        probe = Row([0], [0], [True], [0.0], [0.0])
        self.annotate([probe], importance_cap=1.0)
        return math.isfinite(probe.old_logprobs[0])

    def _wall_s(self) -> float:
        return float(self._earlier_s + time.monotonic() - self._started)

    def sync(self, version: int) -> None:
        """Lets the engine sample from the weights as they are after ``version`` steps. Every process calls it."""
        sharding.gather_weights(self.policy, self.whole, self.accelerator)
        self.engine.sync(version)

    def _save(self) -> None:
        self.state["wall_s"] = self._wall_s()
        optimizer = sharding.optimizer_state(self.policy, self.optimizer, self.accelerator)
        if self.accelerator.is_main_process:
            state = self.state | {"kept": {name: part.state_dict() for name, part in self._kept.items()}}
            state |= {"optimizer": optimizer, "processes": processes.say(self.accelerator)}
            config = self.config.run
            best = self.state["best"] and self.state["best"]["step"]
            checkpoint.save(config.dir, self.state["step"], self.model, self.tokenizer, state, config.keep, best)
        self.accelerator.wait_for_everyone()  # who ends first ends the others, and the checkpoint would be torn


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices of the model's layers: not the embedding, nor the output layer."""
    layers = causal_lm(model).get_decoder().layers
    return [parameter for parameter in layers.parameters() if parameter.requires_grad and parameter.ndim == 2]


def columns(reference: bool, importance_cap: float | None) -> list[str]:
    """The columns that :meth:`Learner.annotate` gives rows."""
    return ["reference"] * reference + ["importance", "engine_difference"] * bool(importance_cap)
