"""The engine ``hf``: samples from the very model that is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from algos.data.batching import Prompts, alike
from algos.engines.base import Sample
from algos.model.forward import causal_lm, prefill


class HFEngine:
    """Samples replies with a key-value cache; what prompts share is computed once.

    Args:
        model: A causal language model, the trained one: ``sync`` has nothing to copy.
        stop_ids: Tokens that end a reply.
        max_new_tokens: A reply is cut after so many.
        batch_size: Prompts sampled at a time.
    """

    def __init__(self, model: nn.Module, stop_ids: set[int], max_new_tokens: int, batch_size: int = 1024) -> None:
        self.model = model
        self.stop_ids = torch.tensor(sorted(stop_ids))
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.version = 0

    def sync(self, version: int) -> None:
        """Takes note that the weights, which are shared, have had ``version`` optimizer steps."""
        self.version = version

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        """Samples one reply a prompt over the whole vocabulary (no top-p, no top-k).

        Args:
            temperature: Log-probabilities are those of softmax(logits / temperature). 0 takes the likeliest token and
                reports its log-probability at temperature 1.
            generator: The only source of randomness.
        """
        training = self.model.training
        self.model.eval()
        samples: dict[int, Sample] = {}
        for game in alike(prompts, self.batch_size):
            for start in range(0, len(game), self.batch_size):
                part = game[start : start + self.batch_size]
                samples |= zip(part, self._batch([prompts[i] for i in part], temperature, generator), strict=True)
        self.model.train(training)
        return [samples[i] for i in range(len(prompts))]

    def _batch(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        decoder, head = causal_lm(self.model).get_decoder(), causal_lm(self.model).get_output_embeddings()
        device = next(self.model.parameters()).device
        asked = Prompts.of(prompts, device)
        cache, hidden, mask = prefill(self.model, asked)
        samples = [Sample([], [], "length") for _ in prompts]
        stops = self.stop_ids.to(device)
        # Rows that have sampled the same so far share a state: one entry of the cache, run once.
        rows, state = torch.arange(len(prompts), device=device), asked.index
        for step in range(self.max_new_tokens):
            tokens, logprobs = choose(head(hidden)[state], temperature, generator)
            going = ~torch.isin(tokens, stops)
            for row, token, logprob, goes in zip(
                rows.tolist(), tokens.tolist(), logprobs.tolist(), going.tolist(), strict=True
            ):
                sample = samples[row]
                sample.ids.append(token)
                sample.logprobs.append(logprob)
                if not goes:
                    sample.stop_reason = "stop"
            rows = rows[going]
            if step == self.max_new_tokens - 1 or not len(rows):
                break
            pairs = torch.stack([state[going], tokens[going]], dim=1)
            distinct, state = torch.unique(pairs, dim=0, return_inverse=True)
            parents, last = distinct.unbind(1)
            if len(parents.unique()) == len(parents) and 4 * len(parents) > 3 * len(mask):
                # Nothing branched and few have ended: leaving those in idle is cheaper than copying the cache.
                state, last = (
                    parents[state],
                    torch.zeros_like(mask[:, 0], dtype=last.dtype).index_copy(0, parents, last),
                )
                parents = torch.arange(len(mask), device=device)
            else:
                cache.batch_select_indices(parents)
            mask = torch.cat([mask[parents], mask.new_ones(len(parents), 1)], dim=1)
            hidden = decoder(
                last[:, None],
                attention_mask=mask.long(),
                position_ids=mask.long().sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        return samples


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples from ``[rows, vocabulary]`` logits: tokens and their log-probabilities, both ``[rows]``."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    tokens = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0] if temperature else log_p.argmax(-1)
    return tokens, log_p.gather(-1, tokens[:, None])[:, 0]
