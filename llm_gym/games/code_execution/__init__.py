"""Code execution: a task in a line, a program that does it."""

from llm_gym.games.code_execution.game import CodeExecution

__all__ = ["CodeExecution"]
