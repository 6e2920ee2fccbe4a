"""An engine on vLLM beside the trainer's own, and how near they are."""

from __future__ import annotations

import copy
import socket
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from algos.model.load import load_model
from algos.rollout.chat import Chat
from algos.rollout.engine import make_engine
from algos.rollout.hf import HFEngine, Sample
from algos.run.config import Config
from algos.run.evaluate import longest


class Both:
    """An engine on vLLM beside the trainer's own, for one and the same trained model.

    Attributes:
        exact: The trained model in the arithmetic that vLLM is asked for.
    """

    def __init__(self, config: Config) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        self.config = config
        self.accelerator = Accelerator(cpu=True)
        self.model, tokenizer = load_model(config.model.path, config.model)
        self.chat = Chat(tokenizer)
        self.engine: Any = make_engine(config, self.model, self.chat, self.accelerator, longest(config))
        self.engine.sync(0)

    def prompts(self, n: int = 24) -> list[list[int]]:
        boards = [f"The board:\n{i} X . | . O . | . . {i}\nYou are X." for i in range(n)]
        return [self.chat.first([{"role": "user", "content": board}]) for board in boards]

    def own(self, prompts: list[list[int]]) -> list[Sample]:
        """Greedy replies of the trained model itself."""
        hf = HFEngine(self.exact(), self.chat.stop_ids, self.config.rollout.max_new_tokens)
        return hf.generate(prompts, 0.0, torch.Generator())

    def exact(self) -> Any:
        return copy.deepcopy(self.model).to(getattr(torch, self.config.model.dtype)).eval()

    def train(self, size: float = 0.02) -> None:
        """Changes all weights that are trained, the tied embedding included, so much that replies change."""
        generator = torch.Generator().manual_seed(self.engine.version)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logprobs(model: Any, prompt: list[int], ids: list[int], temperature: float) -> torch.Tensor:
    """What the model itself gives each of ``ids`` after ``prompt``, one plain forward pass."""
    logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def differences(model: Any, prompts: list[list[int]], samples: list[Sample], temperature: float) -> torch.Tensor:
    """How far each token's log-probability as sampled is from the model's own, ``[tokens]``."""
    return torch.cat(
        [
            (logprobs(model, prompt, sample.ids, temperature) - torch.tensor(sample.logprobs)).abs()
            for prompt, sample in zip(prompts, samples, strict=True)
        ]
    )


def agree(both: Both, prompts: list[list[int]], samples: list[Sample], temperature: float) -> bool:
    """Within 1e-3 on every token in float32. In bfloat16 within 2e-2 on average: both sides round their logits, to
    multiples of 1/16 where they exceed 8, so that single tokens are a tenth apart."""
    found = differences(both.exact(), prompts, samples, temperature)
    if both.config.model.dtype == "float32":
        return bool(found.max() < 1e-3)
    return bool(found.mean() < 2e-2 and found.max() < 0.2)


def ids(samples: list[Sample]) -> list[list[int]]:
    return [sample.ids for sample in samples]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def free_url() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"
