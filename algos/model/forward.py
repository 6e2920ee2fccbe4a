"""The forward pass of a causal language model over shared prompts and the rows that follow them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from algos.data.batching import Batch, Prompts
from algos.maths.logprobs import CHUNK, Direction, ReferenceHidden, token_logprobs


def causal_lm(model: Any) -> Any:
    """The Hugging Face causal model inside PEFT's wrapper, if there is one; its adapters stay in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prefill(model: nn.Module, prompts: Prompts, but_last: bool = False) -> tuple[DynamicCache, Tensor | None, Tensor]:
    """Runs the model over the distinct prompts; ``prompts.index`` tells whose each is.

    Args:
        but_last: Leave out the last token of each prompt.

    Returns:
        The key-value cache, one entry a distinct prompt; the hidden state of the last token of each,
        ``[distinct, width]``, None with ``but_last``; and the cache's attention mask, ``[distinct, tokens]``.
    """
    decoder = causal_lm(model).get_decoder()
    cache = DynamicCache(config=causal_lm(model).config)
    rests, rest_mask = prompts.rests, prompts.rest_mask
    if but_last:
        rests, rest_mask = rests[:, :-1], rest_mask[:, :-1]
    shared, distinct = len(prompts.prefix), len(rests)
    mask = torch.cat([rest_mask.new_ones(distinct, shared), rest_mask], dim=1)
    if shared:
        decoder(prompts.prefix[None], past_key_values=cache, use_cache=True)
        if distinct > 1:
            cache.batch_repeat_interleave(distinct)
    if not rests.shape[1]:
        return cache, None, mask
    positions = (mask.long().cumsum(1) - 1)[:, shared:].clamp(min=0)
    out = decoder(rests, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True)
    return cache, None if but_last else out.last_hidden_state[:, -1], mask


def action_hidden(model: nn.Module, batch: Batch, share_prompts: bool = True) -> Tensor:
    """The hidden state before each action token, ``[tokens, width]``, row by row.

    Args:
        share_prompts: Compute what rows share once. Needs the key-value cache, which gradient checkpointing forbids;
            without it every row runs whole. The result is the same.
    """
    decoder = causal_lm(model).get_decoder()
    prompts, length = batch.prompts, batch.ids.shape[1]
    if share_prompts:
        # A prompt's last token runs with its rows: of those before it, the last layer's keys and values are all that
        # is ever used, and the backward pass leaves out the rest of that layer.
        cache, _, told = prefill(model, prompts, but_last=True)
        if told.shape[1] and not torch.equal(prompts.index, torch.arange(len(told), device=told.device)):
            cache.batch_select_indices(prompts.index)
        last = torch.ones_like(batch.mask[:, :1])
        mask = torch.cat([told[prompts.index], last, batch.mask[:, :-1]], dim=1).long()
        ids = torch.cat([prompts.rests[prompts.index, -1:], batch.ids[:, :-1]], dim=1)
        positions = (mask.cumsum(1) - 1)[:, told.shape[1] :]
        out = decoder(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        return out.last_hidden_state[batch.action_mask]
    prefix = prompts.prefix.expand(len(batch.ids), -1)
    ids = torch.cat([prefix, prompts.rests[prompts.index], batch.ids], dim=1)
    mask = torch.cat([torch.ones_like(prefix), prompts.rest_mask[prompts.index], batch.mask], dim=1).long()
    out = decoder(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False)
    return out.last_hidden_state[:, -length - 1 : -1][batch.action_mask]


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[bool]:
    """Switches gradient checkpointing on where gradients are computed; yields whether any layer uses it.

    Transformers uses it in train mode only, which would also switch on dropout. Only the layers' own flags are set.
    """
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = torch.is_grad_enabled()
    try:
        yield bool(layers) and torch.is_grad_enabled()
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


class PolicyOutput(NamedTuple):
    """A policy's output for action tokens, ``[tokens]`` each.

    Attributes:
        logprobs: Log-probabilities at the policy's temperature.
        entropy: Entropy of the distribution of each token, in nats.
        kl: KL divergence between the distributions of policy and reference, in nats; None without a reference.
        values: The critic's estimate before each token; None without a critic.
    """

    logprobs: Tensor
    entropy: Tensor
    kl: Tensor | None = None
    values: Tensor | None = None


class Policy(nn.Module):
    """A causal language model that returns the log-probabilities of a batch's action tokens.

    One forward call is one pass, so that DistributedDataParallel and DeepSpeed can wrap it.
    """

    def __init__(self, model: nn.Module, temperature: float, share_prompts: bool = True) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.share_prompts = share_prompts
        self.chunk = CHUNK

    def forward(
        self, batch: Batch, reference: ReferenceHidden | None = None, direction: Direction = "reverse"
    ) -> PolicyOutput:
        """The output for the batch's action tokens, row by row; ``kl`` only with a reference."""
        hidden = self.action_hidden(batch)
        return PolicyOutput(*self.token_logprobs(hidden, batch, reference, direction))

    def action_hidden(self, batch: Batch) -> Tensor:
        """The hidden state before each action token, ``[tokens, width]``."""
        with recomputing(self.model) as checkpointed:
            return action_hidden(self.model, batch, self.share_prompts and not checkpointed)

    def token_logprobs(
        self, hidden: Tensor, batch: Batch, reference: ReferenceHidden | None, direction: Direction
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :func:`algos.maths.logprobs.token_logprobs`."""
        head, targets = causal_lm(self.model).get_output_embeddings(), batch.at_actions(batch.ids)
        return token_logprobs(hidden, targets, head, self.temperature, reference, self.chunk, direction)

    @torch.no_grad()
    def hidden(self, batch: Batch) -> ReferenceHidden:
        """The hidden states and output weights from which another policy computes its KL divergence from this one."""
        return action_hidden(self.model, batch), causal_lm(self.model).get_output_embeddings().weight.detach()
