"""One pool's traffic between this process and Redis: one round trip sends finished jobs and receives new ones."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from shared.queue.dramatiq.idle_threads import IdleThreads
from shared.queue.dramatiq.lease import LeaseTable, RunningLease
from shared.queue.encoding import Arguments
from shared.queue.errors import QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import AcquiredJob, Disposition
from shared.signals import Signal

_OVERDUE_SECONDS = 1.0

_log: Any = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Finished:
    """The end of a lease, on its way to Redis. `was_sent`: a reply was lost, so it may have been applied already."""

    lease: RunningLease
    arguments: Arguments
    since: float
    was_sent: bool = False


@dataclass(slots=True)
class _Request:
    """A round trip; it is repeated unchanged if its reply is lost. `count` idle threads are reserved for its jobs."""

    id: str
    count: int
    finished: list[_Finished]


class Exchange:
    """Batches finishes without waiting for a batch to fill.

    A worker thread queues its finish and is idle. The consumer's thread sends all finishes that were queued during its
    last round trip, and asks for as many jobs as threads are idle by then. An idle process therefore sends a single
    finish at once, a busy one sends many together. The exchange belongs to the broker, because Dramatiq replaces a
    consumer that failed.
    """

    def __init__(
        self,
        queue: RedisJobQueue,
        pool: str,
        *,
        worker: str,
        idle: IdleThreads,
        leases: LeaseTable,
        stopping: Signal,
        poll_seconds: float = 1.0,
    ) -> None:
        self._queue = queue
        self._pool = pool
        self._worker = worker
        self._idle = idle
        self._leases = leases
        self._stopping = stopping
        self._poll_seconds = poll_seconds
        self._changed = threading.Condition(idle.lock)
        self._finished: list[_Finished] = []
        self._prefix, self._number = uuid.uuid4().hex, 0
        self._request: _Request | None = None
        self._answered = ""
        # Whether Redis may have a job: it notified, the last acquire got all it asked for, or a job or lease is due.
        self._is_worth_asking = True
        self._ask_at = 0.0
        self._has_no_thread = False

    # -- from any thread -----------------------------------------------------------------------------------------

    def finish(self, lease: RunningLease, arguments: Arguments) -> None:
        """Queues the end of a lease (see `encode_finish`) for the consumer's thread, and frees the worker thread."""
        with self._changed:
            self._finished.append(_Finished(lease, arguments, time.monotonic()))
            self._idle.give_back(1)
            self._changed.notify_all()

    def notify(self) -> None:
        """Call it when there may be a job to acquire."""
        with self._changed:
            self._is_worth_asking = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._has_no_thread = False
            self._changed.notify_all()

    def send_overdue(self) -> None:
        """Sends finishes that a paused or replaced consumer hasn't sent in time. Raises QueueUnavailable."""
        with self._changed:
            is_overdue = self._finished and time.monotonic() - self._finished[0].since >= _OVERDUE_SECONDS
        if is_overdue:
            self.send_finished()

    def await_finished(self, timeout_seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._finished), timeout_seconds)

    def send_finished(self) -> None:
        """Sends the queued finishes without acquiring. Raises QueueUnavailable; they stay queued then."""
        with self._changed:
            finished, self._finished = self._finished, []
        if not finished:
            return
        try:
            self._settle(finished, self._queue.finish_many([entry.arguments for entry in finished]))
        except QueueUnavailable:
            self._put_back(finished)
            raise
        except Exception:  # noqa: BLE001 - an impossible finish must not prevent the others
            self._send_singly(finished)

    # -- from the consumer's thread ------------------------------------------------------------------------------

    def run(self, timeout_seconds: float) -> Sequence[AcquiredJob]:
        """Waits until there is a finish to send or a job to ask for, then makes one round trip.

        A thread is reserved for each job that is returned; `finish` frees it. Returns at once if the process is
        stopping. Raises QueueUnavailable.
        """
        request = self._request = self._request or self._await_request(timeout_seconds)
        if request is None:
            return ()
        try:
            batch = self._queue.exchange(
                self._pool,
                request.count,
                worker=self._worker,
                request_id=request.id,
                finishes=[entry.arguments for entry in request.finished],
                answered_request_id=self._answered,
            )
        except QueueUnavailable:
            for entry in request.finished:
                entry.was_sent = True
            raise
        except Exception:
            self._request = None
            self._idle.give_back(request.count)
            self._send_singly(request.finished)
            raise
        self._request = None
        self._answered = request.id if batch.jobs else ""
        with self._changed:
            if len(batch.jobs) < request.count:
                due = batch.next_due_seconds
                wait = self._poll_seconds if due is None else min(self._poll_seconds, due + 0.001)
                self._ask_at = time.monotonic() + wait
            elif request.count > 0:
                self._is_worth_asking = True
            self._idle.give_back(request.count - len(batch.jobs))
        self._settle(request.finished, batch.applied)
        return batch.jobs

    def abandon(self) -> None:
        """Releases jobs that a lost reply may have handed out. If that fails, they return when their leases expire."""
        self._idle.leave(self._pool)
        request, self._request = self._request, None
        if request is None:
            return
        self._put_back(request.finished)
        self._idle.give_back(request.count)
        try:
            # With a count of 0, only a replay can return jobs.
            batch = self._queue.acquire(self._pool, 0, worker=self._worker, request_id=request.id)
            for acquired in batch.jobs:
                self._queue.finish(acquired.job.id, acquired.token, Disposition.RELEASE)
        except QueueUnavailable as error:
            _log.warning("queue_unreachable", pool=self._pool, error=error.message)

    def give_up(self) -> None:
        """Drops finishes that could not be sent. Their jobs run again after their leases have expired."""
        with self._changed:
            finished, self._finished = self._finished, []
        for entry in finished:
            self._leases.remove(entry.lease)
            _log.error("finish_given_up", job=entry.lease.job.id)

    # -- internal ------------------------------------------------------------------------------------------------

    def _await_request(self, timeout_seconds: float) -> _Request | None:
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not self._stopping.is_set():
                now = time.monotonic()
                asks = self._is_worth_asking or now >= self._ask_at
                if self._finished or (asks and not self._has_no_thread):
                    break
                until = deadline if self._has_no_thread else min(deadline, self._ask_at)
                if now >= deadline:
                    return None
                self._changed.wait(max(0.0, until - now))
            else:
                return None
            count = self._idle.take_all(self._pool, self.wake)
            self._has_no_thread = count == 0
            finished, self._finished = self._finished, []
            if count > 0:
                # A later notification may be for a job that this request doesn't see.
                self._is_worth_asking = False
        if count == 0 and not finished:
            return None
        self._number += 1
        return _Request(f"{self._prefix}-{self._number}", count, finished)

    def _settle(self, finished: Sequence[_Finished], applied: Sequence[bool]) -> None:
        for entry, is_applied in zip(finished, applied, strict=True):
            self._leases.remove(entry.lease)
            # A repeat that is refused was most likely applied the first time.
            if not is_applied and not entry.was_sent:
                _log.warning("finish_refused", job=entry.lease.job.id, token=entry.lease.token)

    def _put_back(self, finished: list[_Finished]) -> None:
        for entry in finished:
            entry.was_sent = True
        with self._changed:
            self._finished = finished + self._finished

    def _send_singly(self, finished: list[_Finished]) -> None:
        """Sends finishes one by one after their script failed, so that an impossible one doesn't prevent the others."""
        for number, entry in enumerate(finished):
            entry.was_sent = True
            try:
                self._settle([entry], self._queue.finish_many([entry.arguments]))
            except QueueUnavailable:
                self._put_back(finished[number:])
                return
            except Exception:  # noqa: BLE001 - the job runs again after its lease has expired
                _log.exception("finish_failed", job=entry.lease.job.id)
                self._leases.remove(entry.lease)
