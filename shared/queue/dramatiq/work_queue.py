"""The queue between consumers and worker threads; it replaces Dramatiq's."""

from __future__ import annotations

import queue
import threading
from typing import Any


class WorkQueue(queue.SimpleQueue[Any]):
    """First in, first out: every item in it has an idle thread already, so priorities don't matter.

    Dramatiq's PriorityQueue wakes a sleeping thread for each put. SimpleQueue, written in C, wakes one thread, which
    wakes the next when it has taken its item, so short jobs run on threads that are awake, at a third of the cost.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self.unfinished_tasks = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self._changed:
            self.unfinished_tasks += 1
        super().put(item)

    def task_done(self) -> None:
        with self._changed:
            self.unfinished_tasks -= 1
            if self.unfinished_tasks == 0:
                self._changed.notify_all()

    def join(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.unfinished_tasks == 0)
