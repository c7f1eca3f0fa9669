"""The lease of a running job, and the table of all leases of this process."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from schemas.messages import Job
from shared.queue.base import Lease
from shared.queue.records import AcquiredJob, Disposition
from shared.signals import Signal

_current: ContextVar[RunningLease | None] = ContextVar("current_lease", default=None)


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a lease ends: what happens to its job when the code has returned."""

    disposition: Disposition
    delay_seconds: float = 0.0
    reason: str = ""
    next_jobs: tuple[Job | tuple[Job, float], ...] = field(default=())


class RunningLease:
    """Implements Lease. `stopping` is shared by all leases of the process."""

    def __init__(self, acquired: AcquiredJob, *, stopping: Signal) -> None:
        self._acquired = acquired
        self._stopping = stopping
        self._lost = Signal()
        self._cancelled = Signal()
        if acquired.is_cancelled:
            self._cancelled.set()
        self.settlement: Settlement | None = None
        # Messages that middleware sent after the actor returned; the step that ends the lease sends them.
        self.sent_jobs: list[tuple[Job, float]] = []
        self.is_collecting = False
        # Its settlement is being sent, so a heartbeat that finds the lease gone means nothing.
        self.is_settled = False

    @property
    def job(self) -> Job:
        return self._acquired.job

    @property
    def token(self) -> int:
        return self._acquired.token

    @property
    def attempt(self) -> int:
        return self._acquired.attempt

    @property
    def is_last_attempt(self) -> bool:
        return self._acquired.attempt >= self._acquired.job.max_attempts

    @property
    def waited_seconds(self) -> float:
        return self._acquired.waited_seconds

    @property
    def lost(self) -> Signal:
        return self._lost

    @property
    def cancelled(self) -> Signal:
        return self._cancelled

    @property
    def stopping(self) -> Signal:
        return self._stopping

    def done(self, next_jobs: Sequence[Job] = ()) -> None:
        self.settlement = Settlement(Disposition.DONE, next_jobs=tuple(next_jobs))

    def retry(self, delay_seconds: float) -> None:
        self.settlement = Settlement(Disposition.RETRY, delay_seconds=delay_seconds, reason="attempts_exhausted")

    def release(self, delay_seconds: float = 0.0) -> None:
        self.settlement = Settlement(Disposition.RELEASE, delay_seconds=delay_seconds)

    def wait_for_slot(self, delay_seconds: float = 0.0) -> None:
        self.settlement = Settlement(Disposition.WAIT, delay_seconds=delay_seconds)

    @contextmanager
    def collecting(self) -> Generator[None]:
        self.is_collecting = True
        try:
            yield
        finally:
            self.is_collecting = False


def current_lease() -> Lease | None:
    """The lease of the job that this thread runs, or None outside of a job."""
    return _current.get()


def current_running_lease() -> RunningLease | None:
    """As `current_lease`, with the members that only the broker uses."""
    return _current.get()


def set_current_lease(lease: RunningLease | None) -> None:
    _current.set(lease)


class LeaseTable:
    """The leases of this process, of all consumers. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, int], RunningLease] = {}

    def add(self, lease: RunningLease) -> None:
        with self._lock:
            self._leases[lease.job.id, lease.token] = lease

    def remove(self, lease: RunningLease) -> bool:
        """Returns False if it was removed before."""
        with self._lock:
            return self._leases.pop((lease.job.id, lease.token), None) is not None

    def holds(self, lease: RunningLease) -> bool:
        with self._lock:
            return (lease.job.id, lease.token) in self._leases

    def all(self) -> list[RunningLease]:
        with self._lock:
            return list(self._leases.values())

    def cancel(self, job_id: str) -> None:
        for lease in self.all():
            if lease.job.id == job_id:
                lease.cancelled.set()
