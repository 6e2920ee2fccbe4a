"""MBPP, Mostly Basic Python Problems (Austin et al., 2021): a description, a program, tests."""

from llm_gym.games.mbpp.dataset import SPLITS, MbppTask, read_tasks
from llm_gym.games.mbpp.game import MBPP

__all__ = ["MBPP", "SPLITS", "MbppTask", "read_tasks"]
