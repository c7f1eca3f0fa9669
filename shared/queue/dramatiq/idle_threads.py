"""Counts the idle worker threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable


class IdleThreads:
    """Reserves idle threads before acquiring, so that no more jobs are acquired than can run.

    With Dramatiq's prefetch, jobs would hold a lease and a slot while they wait behind others in this process.
    Exchanges share `lock`, so that they can check and reserve in one step; callbacks are called with it held.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._total = 0
        self._bound: int | None = None
        self._taken = 0
        self._waiting: dict[str, Callable[[], None]] = {}

    @property
    def total(self) -> int:
        return self._total

    @property
    def busy(self) -> int:
        """Threads that run a job or are reserved for an acquire under way."""
        return self._taken

    def resize(self, total: int) -> None:
        with self.lock:
            self._total = total
            self._tell()

    def bound(self, most: int | None) -> None:
        """At most so many threads may be busy; None for no bound. Doesn't interrupt those that are."""
        with self.lock:
            self._bound = most
            self._tell()

    def take_all(self, pool: str, on_free: Callable[[], None]) -> int:
        """Reserves all idle threads except one for each other pool that waits for one. Returns how many.

        If there are none, the pool waits: one is kept for it, and `on_free` is called once a thread is idle.
        """
        with self.lock:
            self._waiting.pop(pool, None)
            count = max(0, self._usable() - self._taken - len(self._waiting))
            if count == 0:
                self._waiting[pool] = on_free
            self._taken += count
            return count

    def give_back(self, count: int) -> None:
        with self.lock:
            self._taken -= count
            self._tell()

    def leave(self, pool: str) -> None:
        """Ends the wait of the pool."""
        with self.lock:
            self._waiting.pop(pool, None)

    def _usable(self) -> int:
        return self._total if self._bound is None else min(self._total, self._bound)

    def _tell(self) -> None:
        if self._taken < self._usable():
            for on_free in tuple(self._waiting.values()):
                on_free()
