"""The Password Game: rules that pile up until no ordinary password keeps them all."""

from llm_gym.games.password.game import PasswordGame

__all__ = ["PasswordGame"]
