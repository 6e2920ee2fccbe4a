"""MBPP, Mostly Basic Python Problems (Austin et al., 2021): a description, a program, tests."""

from llm_gym.games.mbpp.dataset import SPLITS, Task, read_tasks
from llm_gym.games.mbpp.game import MBPP

__all__ = ["MBPP", "SPLITS", "Task", "read_tasks"]
