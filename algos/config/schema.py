"""Settings: defaults, then a profile, YAML, environment variables, the command line; the later wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, coerce_numbers_to_str=True)


class RunSection(Section):
    name: str = Field("run", description="Names the run in trackers and in its report.")
    dir: Path = Field(Path("runs/run"), description="The run's folder.")
    seed: int = Field(0, ge=0, description="Fixes every random choice of the run.")
    max_steps: int = Field(100, ge=0, description="Number of collect-and-update steps.")
    save_every: int = Field(25, ge=1, description="A checkpoint after every so many steps, and at the end.")
    keep: int = Field(2, ge=1, description="Newest checkpoints kept.")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        ["tensorboard"],
        description="Where metrics go besides metrics.jsonl. wandb is offline unless WANDB_API_KEY is set.",
    )


class ModelSection(Section):
    path: str = Field(
        "tiny", description="A Hugging Face folder or id, or `tiny`: the embedded model, warm-started by SFT."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Arithmetic, and what a frozen base is kept in; weights that are trained stay float32."
    )
    lora_rank: int = Field(0, ge=0, description="Rank of the LoRA adapters that are trained; 0: all weights are.")
    lora_alpha: int = Field(32, ge=1, description="What adapters add is scaled by lora_alpha / lora_rank.")
    lora_targets: str | list[str] = Field(
        "all-linear", description="Layers that get adapters: all-linear (all but the output), or a list of names."
    )
    lora_dropout: float = Field(0.0, description="Only 0: dropout makes the policy trained another than that sampled.")
    quantize: Literal["nf4"] | None = Field(None, description="nf4: a frozen base in 4 bits (QLoRA); needs lora_rank.")
    gradient_checkpointing: bool = Field(
        False, description="Activations are computed again instead of kept: less memory, about a third more time."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None, description="How attention is computed; null: as the model and its library choose."
    )

    @field_validator("lora_dropout")
    @classmethod
    def _no_dropout(cls, value: float) -> float:
        if value != 0.0:
            raise ValueError("the policy that is trained must be the one that sampled: leave lora_dropout at 0")
        return value


class EnvSection(BaseModel):
    """``id`` and, beside it, any setting of that environment (opponent, seat, ...)."""

    model_config = ConfigDict(extra="allow")
    id: str = Field("llmgym/TicTacToe-v0", description="A registered Gymnasium id.")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RolloutSection(Section):
    episodes: int = Field(256, ge=1, description="Episodes a step, over all processes.")
    context: Literal["turn", "episode"] = Field(
        "turn",
        description="turn: each reply answers the rules and the situation now. episode: one growing conversation.",
    )
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; training needs the full support.")
    top_p: float = Field(1.0, description="Only 1: cutting the distribution breaks the importance ratio.")
    top_k: int = Field(0, description="Only 0 (off), for the same reason.")
    max_new_tokens: int = Field(16, ge=1, description="A reply is cut after so many tokens.")
    max_turns: int = Field(64, ge=1, description="An episode is truncated after so many replies.")
    max_prompt_tokens: int = Field(1024, ge=1, description="An episode is truncated where its prompt would be longer.")
    thinking: bool = Field(False, description="`enable_thinking` of the chat template.")

    @field_validator("top_p")
    @classmethod
    def _full_nucleus(cls, value: float) -> float:
        if value != 1.0:
            raise ValueError("training samples from the whole distribution: leave top_p at 1.0")
        return value

    @field_validator("top_k")
    @classmethod
    def _full_vocabulary(cls, value: int) -> int:
        if value != 0:
            raise ValueError("training samples from the whole distribution: leave top_k at 0")
        return value


class OptimSection(Section):
    name: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: the momentum of the layers' matrices is made orthogonal (2502.16982); AdamW for the rest.",
    )
    lr: float = Field(1e-6, gt=0, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="From the peak to `final_lr`.")
    final_lr: float = Field(0.0, ge=0, description="Learning rate at the last step of a linear or cosine schedule.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Evaluate and export a running mean of the weights with this decay a step; 0: the weights.",
    )
    micro_batch: int = Field(
        256, ge=1, description="Rows in memory at a time, on each process. It never changes the gradient."
    )


class PolicyUpdateSection(Section):
    """What the policy updates of GRPO, PPO and SPIRAL share."""

    aggregation: Literal["token", "sequence", "constant"] = Field(
        "token", description="How token losses are averaged: token (DAPO), sequence (GRPO) or constant (Dr. GRPO)."
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="The importance ratio is clipped below at 1 - clip_low.")
    clip_high: float = Field(0.2, gt=0, description="The importance ratio is clipped above at 1 + clip_high.")
    tis_cap: float | None = Field(
        None,
        gt=0,
        description="Truncated importance sampling (engine and trainer): largest weight of a token; null: off.",
    )
    kl_coef: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the reference (SPIRAL: the magnet); 0: no reference."
    )
    final_kl_coef: float | None = Field(
        None, ge=0, description="kl_coef changes linearly to this value at the last step; null: it stays."
    )
    kl_direction: Literal["reverse", "forward"] = Field(
        "reverse",
        description="reverse: KL(policy || reference). forward: KL(reference || policy), which keeps exploration.",
    )
    epochs: int = Field(1, ge=1, description="Passes over each step's episodes.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps per epoch.")


class ExtraEvaluation(BaseModel):
    """A further evaluation. What is null is as in the main evaluation or in ``rollout``; ``id: null`` is ``env``.

    Beside these, any setting of the environment.
    """

    model_config = ConfigDict(extra="allow")
    name: str = Field(description="Metrics are called name/success_rate and so on.")
    id: str | None = Field(None, description="A registered Gymnasium id; null: that of `env`, with its settings.")
    episodes: int | Literal["all"] = Field(100, description="Starts; all: each task of a data set once.")
    samples: int = Field(1, ge=1, description="Episodes from each start; several give pass@k.")
    temperature: float | None = Field(None, ge=0, description="Of sampling; 0: greedy.")
    max_new_tokens: int | None = Field(None, ge=1, description="A reply is cut after so many tokens.")
    every: int | None = Field(None, ge=0, description="During training after every so many steps; 0: never.")
    before: bool = Field(True, description="Whether it is done before training.")
    after: bool = Field(True, description="Whether it is done after training.")
    details: Path | None = Field(None, description="Folder for one JSON line an episode; null: in the run's folder.")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EngineSection(Section):
    kind: Literal["hf", "vllm_server", "vllm_colocate"] = Field(
        "hf", description="What samples replies: the trained model itself, a vLLM server, or vLLM on the same device."
    )
    url: str = Field("http://127.0.0.1:8000", description="vllm_server: where it answers.")
    start: bool = Field(False, description="vllm_server: start one at `url`, and end it with the run.")
    gpus: str | None = Field(None, description="CUDA_VISIBLE_DEVICES of a started server; null: the trainer's.")
    args: list[str] = Field([], description="More arguments of a started server, such as --tensor-parallel-size.")
    start_s: float = Field(1800.0, gt=0, description="A started server must answer after so many seconds.")
    weights: Path | None = Field(
        None, description="Folder that trainer and server both see; weights pass through it. null: one in run.dir."
    )
    concurrency: int = Field(64, ge=1, description="vllm_server: requests in flight at a time, from each process.")
    request_s: float = Field(600.0, gt=0, description="vllm_server: a request is repeated after so many seconds.")
    retry_s: float = Field(300.0, ge=0, description="vllm_server: give up after failing for so many seconds.")
    gpu_memory: float = Field(0.3, gt=0, le=1, description="vllm_colocate: vLLM's share of the device's memory.")
    tolerance: float = Field(
        0.05, gt=0, description="Mean difference allowed between vLLM's and the trainer's log-probabilities at a sync."
    )


class EvalSection(Section):
    episodes: int = Field(400, ge=0, description="Games before and after training, on fixed seeds; 0: none.")
    every: int = Field(0, ge=0, description="Evaluate during training after every so many steps; 0: never.")
    temperature: float = Field(1.0, ge=0, description="1.0: the policy as trained; 0: greedy.")
    env: dict[str, Any] = Field({}, description="Environment settings that differ in evaluation, such as opponent.")
    extra: list[ExtraEvaluation] = Field([], description="Additional evaluations, on other environments too.")
    exact: bool | Literal["auto"] = Field(
        "auto", description="Compute values and NashConv on the whole game tree; auto: where that takes about a second."
    )


class Config(Section):
    """What every trainer has; an algorithm adds its own section."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    env: EnvSection = EnvSection()
    rollout: RolloutSection = RolloutSection()
    engine: EngineSection = EngineSection()
    eval: EvalSection = EvalSection()


class StageEnv(EnvSection):
    """``id`` and ``weight``, and beside them any setting of that environment (opponent, seat, ...)."""

    id: str = Field(description="A registered Gymnasium id.")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="How often it is drawn, relative to the others.")


class Stage(Section):
    name: str = Field(description="Names the stage in messages.")
    envs: list[StageEnv] = Field(min_length=1, description="What is played in this stage.")
    threshold: float | None = Field(
        None, gt=0, le=1, description="The success rate that leads on; may be left out in the last stage."
    )
    window: int = Field(200, ge=1, description="Episodes, the newest of the stage, that the rate is taken over.")
    min_episodes: int = Field(0, ge=0, description="The stage lasts at least so many episodes.")


class CurriculumSection(Section):
    stages: list[Stage] = Field([], description="In order; none: `env` alone, all along.")

    @model_validator(mode="after")
    def _leads_on(self) -> CurriculumSection:
        for stage in self.stages[:-1]:
            if stage.threshold is None:
                raise ValueError(f"stage {stage.name!r} is not the last: it needs a threshold in (0, 1] to lead on")
        return self


class ReplaySection(Section):
    share: float = Field(0.0, ge=0, lt=1, description="Share of the starts drawn from the buffer; 0: no replay.")
    size: int = Field(1000, ge=1, description="Failed tasks kept: the newest.")
    low_score: float = Field(
        0.5, ge=0, lt=1, description="A task enters the buffer if its episodes' mean score is at most this."
    )


class SftSection(Section):
    player: str = Field(
        "random", description="The scripted player whose replies are learned; a weak one teaches format only."
    )
    episodes: int = Field(2000, ge=1, description="Games demonstrated.")
    steps: int = Field(300, ge=1, description="Optimizer steps.")
    batch: int = Field(256, ge=1, description="Replies a step.")
    micro_batch: int = Field(256, ge=1, description="Replies in memory at a time. It never changes the gradient.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate; linear to 0 after a short warm-up.")
    completion_only_loss: bool = Field(
        True,
        description="Learn the replies only (as in TRL); `false`: what the game says too, which teaches it where each "
        "word of a board stands.",
    )


class TrainConfig(Config):
    """What the three trainers have in common; each adds its own section."""

    optim: OptimSection = OptimSection()
    curriculum: CurriculumSection = CurriculumSection()
    replay: ReplaySection = ReplaySection()
    sft: SftSection = SftSection()  # how `model.path: tiny` is warm-started
