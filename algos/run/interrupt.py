"""Ctrl-C, SIGTERM and SIGUSR1 (a cluster's warning) end a run at the next step, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType

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

    def anywhere(self) -> bool:
        """Whether any process was asked to stop, so that all end after the same step. Every process has to call it."""
        self.received = next(filter(None, gather_object([self.received])), None)
        return self.received is not None
