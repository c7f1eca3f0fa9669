"""How many worker threads of this process have nothing to do."""

from __future__ import annotations

import threading


class IdleThreads:
    """A counter to take from before jobs are acquired, so that no more are than can run at once.

    Dramatiq's prefetch would let jobs hold a lease and a slot while they wait behind others in this process.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._total = 0
        self._taken = 0

    @property
    def total(self) -> int:
        return self._total

    @property
    def busy(self) -> int:
        """Those that run a job, and those that are kept for what an acquire under way may bring."""
        return self._taken

    def resize(self, total: int) -> None:
        with self._condition:
            self._total = total
            self._condition.notify_all()

    def take_all(self, timeout_seconds: float) -> int:
        """Waits for an idle thread and takes all there are; 0 when there was none in time."""
        with self._condition:
            self._condition.wait_for(lambda: self._taken < self._total, timeout_seconds)
            count = max(0, self._total - self._taken)
            self._taken += count
            return count

    def give_back(self, count: int) -> None:
        if count == 0:
            return
        with self._condition:
            self._taken -= count
            self._condition.notify_all()
