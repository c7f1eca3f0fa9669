"""The time limit of a clone."""

from __future__ import annotations

import threading
import time

from shared.errors import Cancelled, FailureCode, StageFailure


class Deadline:
    """Ends a clone when its time is over or when it is cancelled. Safe between threads.

    `ends_at` is a time of `time.monotonic`. Code that waits calls `check` often, or `pause` instead of sleeping.
    """

    def __init__(self, ends_at: float, cancelled: threading.Event) -> None:
        self.cancelled = cancelled
        self._ends_at = ends_at

    def check(self) -> None:
        """Raises Cancelled, or StageFailure TIMEOUT if the time is over."""
        if self.cancelled.is_set():
            raise Cancelled
        if time.monotonic() > self._ends_at:
            raise StageFailure(FailureCode.TIMEOUT, "Fetching the repository took longer than the plan allows.")

    def pause(self, seconds: float) -> None:
        """Waits for so long, but not past the end. Raises as `check`."""
        self.cancelled.wait(min(seconds, max(0.0, self._ends_at - time.monotonic() + 0.01)))
        self.check()
