"""The value head: a critic's estimate before each token."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from algos.data.batching import Batch
from algos.maths.logprobs import Direction, ReferenceHidden
from algos.model.forward import Policy, PolicyOutput, action_hidden, causal_lm, recomputing


class Critic(nn.Module):
    """A linear head on the hidden states of the policy, or of its own backbone.

    The value before a token is read at the preceding token. For the first token of a turn this is the last token of its
    prompt, where a causal model has seen the whole state. The head starts at 0: the first advantages are the returns.

    Args:
        model: The policy's model.
        separate: The critic has its own copy of the model as backbone, with all weights trained.
    """

    def __init__(self, model: Any, separate: bool) -> None:
        super().__init__()
        self.backbone = None
        if separate:
            self.backbone = copy.deepcopy(causal_lm(model)).float().requires_grad_(True)
            head = self.backbone.get_output_embeddings()
            if head.weight is not self.backbone.get_input_embeddings().weight:
                head.requires_grad_(False)  # a critic predicts no tokens
        self.head = nn.Linear(causal_lm(model).config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor, batch: Batch, share_prompts: bool = True) -> Tensor:
        """Values before each action token, ``[tokens]``; ``hidden`` are the policy's states, ``[tokens, width]``."""
        if self.backbone is not None:
            with recomputing(self.backbone) as again:
                hidden = action_hidden(self.backbone, batch, share_prompts and not again)
        return self.head(hidden.to(self.head.weight.dtype))[:, 0]


class ActorCritic(Policy):
    """A :class:`~algos.model.forward.Policy` that also returns values, in the same forward call."""

    def __init__(self, model: nn.Module, temperature: float, separate: bool) -> None:
        super().__init__(model, temperature)
        self.critic = Critic(model, separate)

    def forward(
        self, batch: Batch, reference: ReferenceHidden | None = None, direction: Direction = "reverse"
    ) -> PolicyOutput:
        """The output for the batch's action tokens, row by row, with ``values``."""
        hidden = self.action_hidden(batch)
        output = PolicyOutput(*self.token_logprobs(hidden, batch, reference, direction))
        return output._replace(values=self.critic(hidden, batch, self.share_prompts))
