"""Settings: defaults, then a profile, YAML, environment variables, the command line; the later wins."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

ENV_PREFIX = "LLM_GYM_"


class ConfigError(Exception):
    """A setting is wrong; the message is one line that says which, how, and what would be right."""


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
    average_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Evaluate and export a running mean of the weights with this decay a step; 0: the weights.",
    )
    micro_batch: int = Field(
        256, ge=1, description="Rows in memory at a time, on each process. It never changes the gradient."
    )


class Further(BaseModel):
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
    also: list[Further] = Field([], description="Further evaluations, on other environments too.")
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


C = TypeVar("C", bound=BaseModel)


def load(schema: type[C], argv: list[str]) -> tuple[C, dict[str, str], dict[str, bool]]:
    """Reads ``--config FILE``, ``LLM_GYM_<SECTION>__<KEY>`` variables and ``--section.key value`` from ``argv``.

    ``--profile NAME``, or ``profile: NAME`` in a file, puts a hardware profile's settings under all of them.

    Returns:
        The settings; where each one that is not a default came from; and the flags ``resume`` and ``overwrite``.

    Raises:
        ConfigError: Anything is unknown, of the wrong type, or impossible together.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    files, overrides, flags = _split(argv)
    documents = [(str(file), read_yaml(file)) for file in files]
    named = [document.pop("profile") for _, document in documents if "profile" in document]
    named += [text for key, text in overrides if key == "profile"]
    if named:
        _put_profile(schema, values, sources, str(named[-1]))
    for file, document in documents:
        for key, value in _flatten(document):
            _put(schema, values, sources, key, value, file)
    for name, text in sorted(os.environ.items()):
        if name.startswith(ENV_PREFIX) and "__" in name:
            key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
            _put(schema, values, sources, key, text, f"environment variable {name}", is_text=True)
    for key, text in overrides:
        if key == "profile":
            continue
        if key == "model":
            key = "model.path"
        _put(schema, values, sources, key, text, "command line", is_text=True)
    try:
        return schema.model_validate(values), sources, flags
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        given = "" if isinstance(first["input"], BaseModel | dict) else f" (got {first['input']!r})"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def _split(argv: list[str]) -> tuple[list[Path], list[tuple[str, str]], dict[str, bool]]:
    files: list[Path] = []
    overrides: list[tuple[str, str]] = []
    flags = {"resume": False, "overwrite": False}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or not name:
            raise ConfigError(f"unexpected argument {word!r}: settings are written --section.key value")
        if name in flags and not equals:
            flags[name] = True
            continue
        if not equals:
            if not rest:
                raise ConfigError(f"--{name} needs a value")
            value = rest.pop(0)
        if name == "config":
            files.append(Path(value))
        else:
            overrides.append((name, value))
    return files, overrides, flags


def _put_profile(schema: type[BaseModel], values: dict[str, Any], sources: dict[str, str], name: str) -> None:
    """Sets what the profile says of sections that this trainer has."""
    from algos.run.profiles import settings

    for key, value, source in settings(name):
        if key.partition(".")[0] in schema.model_fields:
            _put(schema, values, sources, key, value, source)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file of settings.

    Raises:
        ConfigError: It is not there, is no YAML, or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(data or {}, dict):
        raise ConfigError(f"--config {path}: must be sections of settings, not a {type(data).__name__}")
    return data or {}


def _flatten(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat += _flatten(value, name + ".") if isinstance(value, dict) and not prefix else [(name, value)]
    return flat


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


def _put(
    schema: type[BaseModel],
    values: dict[str, Any],
    sources: dict[str, str],
    key: str,
    value: Any,
    source: str,
    is_text: bool = False,
) -> None:
    """Sets ``values[section][name]``, having checked that the schema knows it; text is read as YAML reads it."""
    section, _, name = key.partition(".")
    known = schema.model_fields
    if section not in known:
        raise ConfigError(f"{source}: unknown section {section!r} in {key!r}{_nearest(section, known)}")
    part = known[section].annotation
    if not name or not (isinstance(part, type) and issubclass(part, BaseModel)):
        raise ConfigError(f"{source}: {key!r} is not of the form section.key")
    if name not in part.model_fields and part.model_config.get("extra") != "allow":
        raise ConfigError(f"{source}: unknown setting {key!r}{_nearest(name, part.model_fields, section + '.')}")
    field = part.model_fields.get(name)
    if field is None or field.annotation not in (str, Path):  # a name such as "007" or "a: b" is no number, no mapping
        value = _number(_scalar(value) if is_text else value)
    # YAML spells nothing `null`; people write None, which would otherwise be the string "None".
    values.setdefault(section, {})[name] = None if value == "None" else value
    sources[key] = source
    if section == "env" and isinstance(changes := values.get("eval", {}).get("env"), dict):
        changes.pop(name, None)  # who changes the environment later than `eval.env` means evaluation too


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6 as a string; it is a number here."""
    if isinstance(value, str) and value[:1] in "-+.0123456789":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _nearest(name: str, known: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known are {', '.join(prefix + k for k in known)}"


def dump(config: BaseModel, sources: dict[str, str]) -> str:
    """The resolved settings as YAML that loads again, each line with where it came from."""
    lines = []
    for section, settings in config.model_dump(mode="json").items():
        lines.append(f"{section}:")
        for key, value in settings.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
            lines.append(f"  {key}: {text}  # {sources.get(f'{section}.{key}', 'default')}")
    return "\n".join(lines) + "\n"


def die(error: Exception | str) -> NoReturn:
    """Ends the program with one line and exit status 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
