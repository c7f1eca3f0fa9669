"""Why a worker process takes no new jobs: it ends, or it has paused itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import structlog

from shared.queue.dramatiq.idle_threads import IdleThreads
from shared.queue.records import WorkerState

_log: Any = structlog.get_logger(__name__)


class Holds:
    """The state of a process, for its registration. Jobs that run are not interrupted. Safe from any thread.

    `on_change` is called after each change.
    """

    def __init__(self, idle: IdleThreads, on_change: Callable[[], None]) -> None:
        self._idle = idle
        self._on_change = on_change
        self._lock = threading.Lock()
        self._is_draining = False
        # Cause → its reason, and the threads that may be busy nevertheless.
        self._pauses: dict[str, tuple[str, int]] = {}

    @property
    def state(self) -> WorkerState:
        with self._lock:
            if self._is_draining:
                return WorkerState.DRAINING
            return WorkerState.PAUSED if self._pauses else WorkerState.RUNNING

    @property
    def reason(self) -> str:
        with self._lock:
            return " ".join(reason for reason, _threads in self._pauses.values())

    def drain(self) -> None:
        """Takes no jobs from now on."""
        with self._lock:
            self._is_draining = True
            self._apply()
        self._on_change()

    def pause(self, cause: str, reason: str, *, threads: int = 0) -> None:
        """Takes no jobs, or as many at once as `threads` says, until `resume`. `cause` names who pauses it.

        `reason`: a sentence for operators.
        """
        with self._lock:
            is_new = self._pauses.get(cause) != (reason, threads)
            self._pauses[cause] = (reason, threads)
            self._apply()
        if is_new:
            _log.error("worker.paused", cause=cause, reason=reason, threads=threads)
            self._on_change()

    def resume(self, cause: str) -> None:
        """Does nothing if `cause` hasn't paused it. Another cause keeps it paused."""
        with self._lock:
            was_paused = self._pauses.pop(cause, None) is not None
            self._apply()
        if was_paused:
            _log.warning("worker.resumed", cause=cause)
            self._on_change()

    def _apply(self) -> None:
        bounds = [threads for _reason, threads in self._pauses.values()]
        self._idle.bound(0 if self._is_draining else min(bounds, default=None))
