"""Stopping a run on a signal: finish the step, write a checkpoint, and exit with a status that says so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# schedulers announce the end of a job by SIGTERM, or by a signal of the user's choice; Windows has two of the four
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has written its checkpoint; ``number`` is the signal number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class StopRequest:
    """Remembers the first of `SIGNALS`, so that the loop can stop between two steps.

    A second Ctrl-C interrupts at once, except under torchrun, where the terminal and torchrun both deliver the first.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Catch the signals inside the block; outside the main thread, where Python forbids handlers, catch nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.number = self.number or number
