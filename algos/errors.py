"""Errors that a user sees as one line."""

from __future__ import annotations

from llm_gym.arguments import UsageError, die

__all__ = ["ConfigError", "die"]


class ConfigError(UsageError):
    """A setting is wrong; the message is one line that says which, how, and what would be right."""
