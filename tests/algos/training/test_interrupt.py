"""A signal that asks a run to stop is never lost."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from accelerate.utils import gather_object

from algos.training import interrupt
from algos.training.interrupt import StopSignal


def test_a_signal_that_comes_while_the_processes_ask_one_another_is_told_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(told: list[Any]) -> list[Any]:
        everyone = gather_object(list(told))
        if stop.received is None:
            signal.raise_signal(signal.SIGUSR1)
        return everyone

    monkeypatch.setattr(interrupt, "gather_object", interrupted)
    stop = StopSignal()
    try:
        assert [stop.anywhere(), stop.anywhere(), stop.received] == [False, True, "SIGUSR1"]
    finally:
        stop.restore()
