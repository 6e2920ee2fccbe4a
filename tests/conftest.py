"""What all tests share: no test's verdict depends on how busy the machine is."""

from hypothesis import HealthCheck, settings

from tests.sandbox.skipping import pytest_runtest_makereport  # noqa: F401 - a hook of pytest

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
