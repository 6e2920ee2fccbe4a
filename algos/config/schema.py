"""Settings: defaults, then a profile, YAML, environment variables, the command line; the later wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, coerce_numbers_to_str=True)


class RunSection(Section):
    name: str = Field("run", description="Name of the run in trackers and in its report.")
    dir: Path = Field(Path("runs/run"), description="Folder of the run.")
    seed: int = Field(0, ge=0, description="Seed of every random choice of the run.")
    max_steps: int = Field(100, ge=0, description="Number of collect-and-update steps.")
    save_every: int = Field(25, ge=1, description="Steps between checkpoints; there is one at the end too.")
    keep: int = Field(2, ge=1, description="Number of newest checkpoints to keep.")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        ["tensorboard"],
        description="Trackers besides metrics.jsonl. wandb is offline unless WANDB_API_KEY is set.",
    )


class ModelSection(Section):
    path: str = Field(
        "tiny", description="A Hugging Face folder or id, or `tiny`: the embedded model, warm-started by SFT."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Data type of the computation and of a frozen base; trained weights stay float32."
    )
    lora_rank: int = Field(0, ge=0, description="Rank of the LoRA adapters that are trained; 0: train all weights.")
    lora_alpha: int = Field(32, ge=1, description="The output of the adapters is scaled by lora_alpha / lora_rank.")
    lora_targets: str | list[str] = Field(
        "all-linear", description="Layers with adapters: all-linear (all but the output layer), or a list of names."
    )
    quantize: Literal["nf4"] | None = Field(
        None, description="nf4: keep the frozen base in 4 bits (QLoRA); needs lora_rank."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third more time."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None, description="Attention implementation; null: the default of the model."
    )


class EnvSection(BaseModel):
    """``id``, and any setting of that environment (opponent, seat, ...)."""

    model_config = ConfigDict(extra="allow")
    id: str = Field("llmgym/TicTacToe-v0", description="A registered Gymnasium id; `llm-gym envs` lists those here.")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RolloutSection(Section):
    episodes: int = Field(256, ge=1, description="Episodes per step, over all processes.")
    context: Literal["turn", "episode"] = Field(
        "turn",
        description="turn: each prompt is the rules and the current situation. episode: one growing conversation.",
    )
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature. Training samples from the whole distribution: no top-p, no top-k."
    )
    max_new_tokens: int = Field(16, ge=1, description="Maximum tokens per reply.")
    max_turns: int = Field(64, ge=1, description="Maximum replies per episode; a longer episode is truncated.")
    max_prompt_tokens: int = Field(
        1024, ge=1, description="Maximum tokens per prompt; an episode that needs a longer one is truncated."
    )
    thinking: bool = Field(False, description="Value of `enable_thinking` for the chat template.")


class OptimSection(Section):
    name: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: orthogonalized momentum for the layers' matrices (arXiv 2502.16982), AdamW for the rest.",
    )
    lr: float = Field(1e-6, gt=0, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Schedule of the learning rate from lr to final_lr, after the warm-up."
    )
    final_lr: float = Field(0.0, ge=0, description="Learning rate at the last step of a linear or cosine schedule.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from 0 to lr.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW).")
    max_grad_norm: float = Field(
        1.0, gt=0, description="Maximum norm of the gradient; a larger gradient is scaled down to it."
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay per step of the averaged weights (EMA) used for evaluation and export; 0: no averaging.",
    )
    micro_batch: int = Field(
        256, ge=1, description="Rows in memory at a time on each process. It does not change the gradient."
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

    @model_validator(mode="after")
    def _final_kl_coef(self) -> PolicyUpdateSection:
        if self.final_kl_coef and not self.kl_coef:
            raise ValueError("final_kl_coef is the value at which kl_coef ends, and kl_coef is 0: set kl_coef too")
        return self


class ExtraEvaluation(BaseModel):
    """An additional evaluation. A setting that is null has the value of the main evaluation or of ``rollout``.

    Any setting of the environment can be given too.
    """

    model_config = ConfigDict(extra="allow")
    name: str = Field(description="Prefix of the metrics: name/success_rate and so on.")
    id: str | None = Field(None, description="A registered Gymnasium id; null: the one of `env`, with its settings.")
    episodes: int | Literal["all"] = Field(100, description="Number of starts; all: each task of a data set once.")
    samples: int = Field(1, ge=1, description="Episodes per start; several give pass@k.")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature; 0: greedy.")
    max_new_tokens: int | None = Field(None, ge=1, description="Maximum tokens per reply.")
    every: int | None = Field(None, ge=0, description="Steps between evaluations during training; 0: none.")
    before: bool = Field(True, description="Evaluate before training.")
    after: bool = Field(True, description="Evaluate after training.")
    details: Path | None = Field(
        None, description="Folder for the episodes, one JSON line each; null: in the run's folder."
    )

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EngineSection(Section):
    kind: Literal["hf", "vllm_server", "vllm_colocate"] = Field(
        "hf",
        description="What samples the replies: the trained model itself, a vLLM server, or vLLM on the same device.",
    )
    url: str = Field("http://127.0.0.1:8000", description="vllm_server: address of the server.")
    start: bool = Field(False, description="vllm_server: start a server at `url`, and stop it with the run.")
    gpus: str | None = Field(None, description="CUDA_VISIBLE_DEVICES of a started server; null: as in the trainer.")
    args: list[str] = Field([], description="Additional arguments of a started server, such as --tensor-parallel-size.")
    start_s: float = Field(1800.0, gt=0, description="Seconds until a started server must answer.")
    weights: Path | None = Field(
        None, description="Folder through which weights reach the server; both must see it. null: a folder in run.dir."
    )
    concurrency: int = Field(64, ge=1, description="vllm_server: simultaneous requests per process.")
    request_s: float = Field(600.0, gt=0, description="vllm_server: seconds after which a request is repeated.")
    retry_s: float = Field(300.0, ge=0, description="vllm_server: seconds of failures after which the run stops.")
    gpu_memory: float = Field(0.3, gt=0, le=1, description="vllm_colocate: share of the device's memory for vLLM.")
    tolerance: float = Field(
        0.05, gt=0, description="Maximum mean difference between the log-probabilities of vLLM and of the trainer."
    )


class EvalSection(Section):
    episodes: int = Field(
        400, ge=0, description="Episodes of an evaluation, on fixed seeds, before and after training; 0: no evaluation."
    )
    every: int = Field(0, ge=0, description="Steps between evaluations during training; 0: none.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature. 1.0: the policy as trained; 0: greedy.")
    env: dict[str, Any] = Field(
        {}, description="Settings of the environment that differ in evaluation, such as opponent."
    )
    extra: list[ExtraEvaluation] = Field([], description="Additional evaluations, on other environments too.")
    exact: bool | Literal["auto"] = Field(
        "auto", description="Compute exact values and NashConv on the game tree; auto: if that takes about a second."
    )


class Config(Section):
    """The sections that every trainer has; an algorithm adds its own."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    env: EnvSection = EnvSection()
    rollout: RolloutSection = RolloutSection()
    engine: EngineSection = EngineSection()
    eval: EvalSection = EvalSection()


class PlayRollout(RolloutSection):
    max_new_tokens: int = Field(512, ge=1, description="Maximum tokens per reply.")
    max_prompt_tokens: int = Field(
        4096, ge=1, description="Maximum tokens per prompt; an episode that needs a longer one is truncated."
    )


class PlayConfig(Config):
    """Settings of players that are not trained, on any game: with room for long replies."""

    rollout: PlayRollout = PlayRollout()


class StageEnv(EnvSection):
    """``id`` and ``weight``, and any setting of that environment (opponent, seat, ...)."""

    id: str = Field(description="A registered Gymnasium id.")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="Relative frequency with which it is drawn.")


class Stage(Section):
    name: str = Field(description="Name of the stage in messages.")
    envs: list[StageEnv] = Field(min_length=1, description="Environments of this stage.")
    threshold: float | None = Field(
        None, gt=0, le=1, description="Success rate at which the next stage begins; optional in the last stage."
    )
    window: int = Field(
        200, ge=1, description="Number of newest episodes of the stage over which the rate is computed."
    )
    min_episodes: int = Field(0, ge=0, description="Minimum episodes of the stage.")


class CurriculumSection(Section):
    stages: list[Stage] = Field([], description="Stages in order; none: `env` for the whole run.")

    @model_validator(mode="after")
    def _leads_on(self) -> CurriculumSection:
        for stage in self.stages[:-1]:
            if stage.threshold is None:
                raise ValueError(f"stage {stage.name!r} is not the last: it needs a threshold in (0, 1]")
        return self


class ReplaySection(Section):
    share: float = Field(
        0.0, ge=0, lt=1, description="Share of the starts that is drawn from the buffer of failed tasks; 0: no replay."
    )
    size: int = Field(1000, ge=1, description="Maximum tasks in the buffer; the newest are kept.")
    low_score: float = Field(
        0.5, ge=0, lt=1, description="A task enters the buffer if the mean score of its episodes is at most this."
    )


class SftSection(Section):
    player: str = Field(
        "random", description="Scripted player whose replies are learned; a weak one teaches the format only."
    )
    episodes: int = Field(2000, ge=1, description="Number of demonstrated episodes.")
    steps: int = Field(300, ge=1, description="Optimizer steps.")
    batch: int = Field(256, ge=1, description="Rows per optimizer step.")
    micro_batch: int = Field(256, ge=1, description="Rows in memory at a time. It does not change the gradient.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate; it falls linearly to 0 after a short warm-up.")
    completion_only_loss: bool = Field(
        True, description="Learn the replies only (as in TRL); false: learn the observations too."
    )


class TrainConfig(Config):
    """The sections that GRPO, PPO and SPIRAL share; each adds its own."""

    optim: OptimSection = OptimSection()
    curriculum: CurriculumSection = CurriculumSection()
    replay: ReplaySection = ReplaySection()
    sft: SftSection = SftSection()  # how `model.path: tiny` is warm-started
