"""Ctrl-C, SIGTERM and SIGUSR1 (a cluster's warning) end a run at the next step, with a checkpoint."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

from accelerate import PartialState
from accelerate.utils import gather_object


class StopSignal:
    """Notes that a signal asked to stop. A second Ctrl-C stops at once, as usual."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.restore()

    def restore(self) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self, line: str) -> NoReturn:
        """Ends this process with ``line`` and, as a shell would, exit status 128 + the signal's number."""
        if PartialState().is_main_process:
            print(line, file=sys.stderr)
        raise SystemExit(128 + signal.Signals[self.received or "SIGINT"])

    def anywhere(self) -> bool:
        """Whether any process was asked to stop, so that all end after the same step. Every process has to call it."""
        asked = next(filter(None, gather_object([self.received])), None)
        self.received = asked or self.received  # one that came while they were asked is told the next time
        return asked is not None
