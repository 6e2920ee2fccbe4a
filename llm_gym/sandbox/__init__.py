"""Runs untrusted Python: `run` for one program, `Pool` for many, `run_tests` to grade one, `probe` for the layers."""

from llm_gym.sandbox.grading import Grade, Verdict, run_tests
from llm_gym.sandbox.pool import Pool, Program, run, shared_pool
from llm_gym.sandbox.probe import Layer, probe
from llm_gym.sandbox.results import Isolation, Limits, Result, SandboxUnavailable

__all__ = [
    "Grade",
    "Isolation",
    "Layer",
    "Limits",
    "Pool",
    "Program",
    "Result",
    "SandboxUnavailable",
    "Verdict",
    "probe",
    "run",
    "run_tests",
    "shared_pool",
]
