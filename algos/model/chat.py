"""Conversations as tokens: appended, never rendered again."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

Messages = list[dict[str, str]]
_MARK = "⟦reply⟧"
_BYTES = {char: byte for byte, char in bytes_to_unicode().items()}
"""The byte behind each character of a byte-level token's name (GPT-2)."""


class Chat:
    """Turns messages into prompt tokens with a tokenizer's own chat template.

    A template may render the past differently once it is past (Qwen3's drops earlier ``<think>`` blocks). So only the
    first prompt is rendered whole; a later one is the old tokens, the reply as sampled, and the rendering of what is
    new.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        thinking: Passed to the template as ``enable_thinking``.
    """

    def __init__(self, tokenizer: Any, thinking: bool = False) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: use an instruction-tuned model, or set one")
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.stop_ids = stop_ids(tokenizer)
        self._reserved = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._first = lru_cache(65536)(self._render_first)
        self._next = lru_cache(65536)(self._render_next)
        self._piece = lru_cache(None)(self._text_of)
        self._names = {token: name for name, token in tokenizer.get_vocab().items()}

    def first(self, messages: Messages) -> list[int]:
        """The prompt of a conversation that starts with ``messages``."""
        return list(self._first(tuple((m["role"], m["content"]) for m in messages)))

    def following(self, prompt_ids: list[int], action_ids: list[int], messages: Messages) -> list[int]:
        """The next prompt: ``prompt_ids`` and ``action_ids`` as they are, then ``messages``."""
        added = self._next(tuple((m["role"], m["content"]) for m in messages))
        ended = bool(action_ids) and action_ids[-1] == added[0]
        return prompt_ids + action_ids + list(added[1:] if ended else added)

    def decode(self, action_ids: list[int]) -> str:
        """The reply as text, without the token that ended it."""
        ended = bool(action_ids) and action_ids[-1] in self.stop_ids
        return str(self.tokenizer.decode(action_ids[:-1] if ended else action_ids, skip_special_tokens=False))

    def pieces(self, ids: list[int]) -> list[str]:
        """Each token as text to show, never to encode again: a byte that is no character of its own is ``\\xe2``."""
        return [self._piece(token) for token in ids]

    def _text_of(self, token: int) -> str:
        text, name = str(self.tokenizer.decode([token], skip_special_tokens=False)), self._names.get(token)
        if name is None:  # a padded embedding has more rows than there are tokens
            return f"<{token}>"
        if name.startswith("▁") and not text.startswith(" "):  # SentencePiece drops the first space of what it decodes
            return " " + text
        if "\ufffd" in text and all(char in _BYTES for char in name):
            return bytes(_BYTES[char] for char in name).decode("utf-8", "backslashreplace")
        return name if "\ufffd" in text else text

    def _render(self, messages: Messages) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=self.thinking
            )
        )

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _render_first(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        return self._encode(self._render([{"role": r, "content": self._plain(c)} for r, c in messages]))

    def _render_next(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        before = [{"role": "user", "content": "."}, {"role": "assistant", "content": _MARK}]
        text = self._render(before + [{"role": r, "content": self._plain(c)} for r, c in messages])
        return self._encode(text.partition(_MARK)[2])

    def _plain(self, content: str) -> str:
        """``content`` with the tokenizer's control tokens broken up, so that no game's text can end a turn."""
        for token in self._reserved:
            content = content.replace(token, token[:1] + " " + token[1:])
        return content.encode("utf-8", "replace").decode()


def stop_ids(tokenizer: Any) -> set[int]:
    """The tokens that end a reply: the tokenizer's end-of-text, and ``<|im_end|>`` or its like where it has one."""
    known = tokenizer.get_added_vocab()
    names = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")
    return {tokenizer.eos_token_id} | {known[name] for name in names if name in known}
