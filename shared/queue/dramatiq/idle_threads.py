"""How many worker threads of this process have nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Callable


class IdleThreads:
    """A counter to take from before jobs are acquired, so that no more are than can run at once.

    Dramatiq's prefetch would let jobs hold a lease and a slot while they wait behind others in this process.
    Its `lock` is shared with those who decide by it; callbacks are called with it held.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._total = 0
        self._taken = 0
        self._waiting: dict[str, Callable[[], None]] = {}

    @property
    def total(self) -> int:
        return self._total

    @property
    def busy(self) -> int:
        """Those that run a job, and those that are kept for what an acquire under way may bring."""
        return self._taken

    def resize(self, total: int) -> None:
        with self.lock:
            self._total = total
            self._tell()

    def take_all(self, pool: str, on_free: Callable[[], None]) -> int:
        """All idle threads but one for each other pool that waits for one.

        When the answer is 0, `on_free` is called when a thread is idle, and one is kept for the pool.
        """
        with self.lock:
            self._waiting.pop(pool, None)
            count = max(0, self._total - self._taken - len(self._waiting))
            if count == 0:
                self._waiting[pool] = on_free
            self._taken += count
            return count

    def give_back(self, count: int) -> None:
        with self.lock:
            self._taken -= count
            self._tell()

    def leave(self, pool: str) -> None:
        """The pool waits no more."""
        with self.lock:
            self._waiting.pop(pool, None)

    def _tell(self) -> None:
        if self._taken < self._total:
            for on_free in tuple(self._waiting.values()):
                on_free()
