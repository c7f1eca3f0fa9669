"""Pauses a worker whose jobs only fail because of the platform: it would use up attempts that others could use.

running ──5 failures in a row──► paused ──its time is over──► on trial: one job at a time
   ▲                               ▲                               │
   └────────── a success ──────────┼───────────────────────────────┤
                                   └──── a failure: twice as long ─┘

A tenant may have found a way to make jobs fail like this, and must not pause the workers of all others. So failures
count only if they are of several tenants, and on trial only if they are of one that hasn't failed yet; or if the worker
itself finds that something is wrong with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from shared.background import PeriodicTask
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.queue.base import Lease
from workers.pipeline.outcome import Cancelled, Failed, HandedBack, Lost, Outcome, Over, Rerun, Retry, Waiting

_CAUSE = "failures"
# Failures in a row, of so many different deployments: one that always fails says nothing about the worker.
_FAILURES = 5
_TENANTS = 3
# A check may run a sandbox, and a tenant may fail as often as it likes.
_CHECK_SECONDS = 10.0
# Short enough that nobody waits long after an outage that all workers met.
_PAUSE = Backoff(10.0, 60.0)
_LOOK_SECONDS = 1.0


class Pausable(Protocol):
    """The part of shared.queue.dramatiq.holds that this module uses."""

    def pause(self, cause: str, reason: str, *, threads: int = 0) -> None: ...

    def resume(self, cause: str) -> None: ...


class FailurePause:
    """`observe` is called with each outcome, from any thread; `start` and `stop` the thread that ends pauses.

    `check` looks at what jobs need here. It returns what is wrong, or None.
    """

    def __init__(
        self,
        holds: Pausable,
        *,
        check: Callable[[], str | None],
        clock: Clock | None = None,
        backoff: Backoff = _PAUSE,
    ) -> None:
        self._holds = holds
        self._check = check
        self._clock = clock or SystemClock()
        self._backoff = backoff
        self._lock = threading.Lock()
        # Deployment → tenant.
        self._failed: dict[str, str] = {}
        # Whose failures have led to pauses.
        self._blamed: set[str] = set()
        self._checked_at = float("-inf")
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
            self._failed[lease.job.slot or lease.job.id] = lease.job.tenant_id
            self._last = message
            if self._is_too_early():
                return
            is_of_many = len({*self._failed.values()} - self._blamed) >= (_TENANTS if self._pauses == 0 else 1)
            if not is_of_many and not self._may_check():
                return
        # Outside the lock: it may take seconds.
        problem = None if is_of_many else self._check()
        if not is_of_many and problem is None:
            return
        with self._lock:
            if not self._is_too_early():
                self._pause(problem or message)

    def _is_too_early(self) -> bool:
        # Jobs that were running when the pause began say nothing new.
        return self._until is not None or (self._pauses == 0 and len(self._failed) < _FAILURES)

    def _may_check(self) -> bool:
        now = self._clock.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return False
        self._checked_at = now
        return True

    def _pause(self, problem: str) -> None:
        self._last = problem
        self._blamed.update(self._failed.values())
        self._pauses += 1
        seconds = self._backoff.delay_seconds(self._pauses)
        self._until = self._clock.monotonic() + seconds
        self._holds.pause(
            _CAUSE, f"Paused for {seconds:.0f} s after {len(self._failed)} failures in a row; the last: {problem}"
        )

    def _success(self) -> None:
        with self._lock:
            self._failed.clear()
            self._blamed.clear()
            self._pauses, self._until = 0, None
            self._holds.resume(_CAUSE)
