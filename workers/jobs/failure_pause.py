"""Pauses a worker whose jobs only fail because of the platform: it would use up attempts that others could use.

running ──5 failures in a row──► paused ──its time is over──► on trial: one job at a time
   ▲                               ▲                               │
   └────────── a success ──────────┼───────────────────────────────┤
                                   └──── a failure: twice as long ─┘
"""

from __future__ import annotations

import threading
from typing import Protocol

from shared.background import PeriodicTask
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.queue.base import Lease
from workers.pipeline.outcome import Cancelled, Failed, HandedBack, Lost, Outcome, Over, Rerun, Retry, Waiting

_CAUSE = "failures"
# Failures in a row, of so many different deployments: one that always fails says nothing about the worker.
_FAILURES = 5
# Short enough that nobody waits long after an outage that all workers met.
_PAUSE = Backoff(10.0, 60.0)
_LOOK_SECONDS = 1.0


class Pausable(Protocol):
    """The part of shared.queue.dramatiq.holds that this module uses."""

    def pause(self, cause: str, reason: str, *, threads: int = 0) -> None: ...

    def resume(self, cause: str) -> None: ...


class FailurePause:
    """`observe` is called with each outcome, from any thread; `start` and `stop` the thread that ends pauses."""

    def __init__(self, holds: Pausable, *, clock: Clock | None = None, backoff: Backoff = _PAUSE) -> None:
        self._holds = holds
        self._clock = clock or SystemClock()
        self._backoff = backoff
        self._lock = threading.Lock()
        self._failed: set[str] = set()
        self._pauses = 0
        self._until: float | None = None
        self._last = ""
        self._task = PeriodicTask("failure-pause", self.look, _LOOK_SECONDS, waits_first=True)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop()

    def observe(self, lease: Lease, outcome: Outcome[object]) -> None:
        match outcome:
            case Retry(message=message):
                self._failure(lease, message)
            case Failed(is_given_up=True, message=message):
                self._failure(lease, message)
            case Lost() | HandedBack() | Waiting() | Over() | Cancelled() | Rerun():
                pass  # says nothing about this worker
            case _:
                self._success()

    def look(self) -> None:
        """Ends a pause whose time is over."""
        with self._lock:
            if self._until is None or self._clock.monotonic() < self._until:
                return
            self._until = None
            self._holds.pause(
                _CAUSE, f"On trial with one job at a time, after failures; the last: {self._last}", threads=1
            )

    def _failure(self, lease: Lease, message: str) -> None:
        with self._lock:
            self._failed.add(lease.job.slot or lease.job.id)
            self._last = message
            # Jobs that were running when the pause began say nothing new.
            if self._until is not None or (self._pauses == 0 and len(self._failed) < _FAILURES):
                return
            self._pauses += 1
            seconds = self._backoff.delay_seconds(self._pauses)
            self._until = self._clock.monotonic() + seconds
            self._holds.pause(
                _CAUSE,
                f"Paused for {seconds:.0f} s after {len(self._failed)} failures in a row; the last: {message}",
            )

    def _success(self) -> None:
        with self._lock:
            self._failed.clear()
            self._pauses, self._until = 0, None
            self._holds.resume(_CAUSE)
