"""Ctrl-C, SIGTERM and SIGUSR1 (a cluster's warning) end a run after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

from accelerate import PartialState
from accelerate.utils import gather_object


class StopSignal:
    """Records a signal that asks the run to stop. A second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.restore()

    def restore(self) -> None:
        """Restores the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self, line: str) -> NoReturn:
        """Prints ``line`` and ends this process with exit status 128 + the signal's number, as a shell does."""
        if PartialState().is_main_process:
            print(line, file=sys.stderr)
        raise SystemExit(128 + signal.Signals[self.received or "SIGINT"])

    def anywhere(self) -> bool:
        """Whether any process received a signal, so that all end after the same step. Every process calls it."""
        asked = next(filter(None, gather_object([self.received])), None)
        self.received = asked or self.received  # a signal during the gather is reported by the next call
        return asked is not None
