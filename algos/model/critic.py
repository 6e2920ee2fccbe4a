"""The value head: what a critic expects before each token."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from algos.data.batching import Batch
from algos.maths.logprobs import Direction, ReferenceHidden
from algos.model.forward import Policy, PolicyOutput, action_hidden, causal_lm, recomputing


class Critic(nn.Module):
    """A linear head on hidden states: those of the policy, or of a backbone of its own.

    The value before a token is read at the token before it, which for a turn's first token is the last of its prompt:
    a causal model has then seen the whole state. The head starts at 0, so the first advantages are the returns.

    Args:
        model: The policy's model.
        separate: Copy it as the critic's own backbone, all of it trained.
    """

    def __init__(self, model: Any, separate: bool) -> None:
        super().__init__()
        self.backbone = None
        if separate:
            self.backbone = copy.deepcopy(causal_lm(model)).float().requires_grad_(True)
            head = self.backbone.get_output_embeddings()
            if head.weight is not self.backbone.get_input_embeddings().weight:
                head.requires_grad_(False)  # it predicts tokens, which a critic does not
        self.head = nn.Linear(causal_lm(model).config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor, batch: Batch, share_prompts: bool = True) -> Tensor:
        """Values before each action token, ``[tokens]``; ``hidden`` is the policy's there, ``[tokens, width]``."""
        if self.backbone is not None:
            with recomputing(self.backbone) as again:
                hidden = action_hidden(self.backbone, batch, share_prompts and not again)
        return self.head(hidden.to(self.head.weight.dtype))[:, 0]


class ActorCritic(Policy):
    """A :class:`~algos.model.forward.Policy` that answers with values too, in one forward call."""

    def __init__(self, model: nn.Module, temperature: float, separate: bool) -> None:
        super().__init__(model, temperature)
        self.critic = Critic(model, separate)

    def forward(
        self, batch: Batch, reference: ReferenceHidden | None = None, direction: Direction = "reverse"
    ) -> PolicyOutput:
        """What the policy says of the batch's action tokens, row by row, and ``values``."""
        hidden = self.action_hidden(batch)
        output = PolicyOutput(*self.token_logprobs(hidden, batch, reference, direction))
        return output._replace(values=self.critic(hidden, batch, self.share_prompts))
