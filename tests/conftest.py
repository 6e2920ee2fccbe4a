"""What all tests share: no verdict depends on how busy the machine is; skips are counted with their reasons."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings

from tests.sandbox.skipping import pytest_runtest_makereport  # noqa: F401 - a hook of pytest

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

REMEDIES = {
    "Chromium": "apt-get install chromium",
    "deepspeed": "make install",
    "bitsandbytes": "make install",
    "could not import": "make install",
    "isolation": "run where user namespaces are allowed: docs/sandbox.md",
    "pid namespace": "run where user namespaces are allowed: docs/sandbox.md",
    "LLM_GYM_SHARED": "LLM_GYM_SHARED=FOLDER make test",
    "MBPP data": "LLM_GYM_SHARED=FOLDER make test",
    "GPU": "make test on a machine with a GPU",
}
"""A word of a skip's reason -> what to run for the test."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says how many tests were skipped, why, and what to run for them."""
    reports = [report for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section(f"{sum(reasons.values())} skipped")
    for reason, count in reasons.most_common():
        remedy = next((command for word, command in REMEDIES.items() if word in reason), "nothing to run here")
        terminalreporter.write_line(f"{count:4} {reason}  ->  {remedy}")
    terminalreporter.write_line("slow tests: make test-all; tests on vLLM: make test-vllm")
