"""Skips a test that fails because this machine lacks a layer of the sandbox, with the reason that `probe` found."""

from __future__ import annotations

import functools
from collections.abc import Generator

import pytest

from llm_gym.sandbox import probe


@functools.cache
def missing_layer() -> str | None:
    """Why full isolation cannot be had here; None where it can."""
    [full] = [layer for layer in probe() if layer.name == "isolation='full'"]
    return None if full.holds else full.detail


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure that names SandboxUnavailable becomes a skip, but only where the sandbox is really incomplete."""
    report = yield
    if report.failed and "SandboxUnavailable" in report.longreprtext and (reason := missing_layer()):
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (path, (line or 0) + 1, f"Skipped: needs full isolation: {reason}")
    return report
