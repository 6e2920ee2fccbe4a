"""Judges a solution by its tests, in a place where no line of the solution has run."""

from llm_gym.sandbox.grading.verdicts import Grade, Verdict, run_tests

__all__ = ["Grade", "Verdict", "run_tests"]
