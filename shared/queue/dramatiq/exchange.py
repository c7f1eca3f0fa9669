"""One pool's traffic between this process and Redis: finished jobs go out and new ones come in by one round trip."""

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
from shared.queue.records import AcquiredJob, Outcome
from shared.signals import Signal

_OVERDUE_SECONDS = 1.0

_log: Any = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Finished:
    """`was_sent`: an answer was lost, so that it may have been applied already."""

    lease: RunningLease
    arguments: Arguments
    since: float
    was_sent: bool = False


@dataclass(slots=True)
class _Request:
    """What was sent, or is about to be; sent again unchanged when the answer is lost. Holds `count` idle threads."""

    id: str
    count: int
    finished: list[_Finished]


class Exchange:
    """Worker threads hand in what they finished and are free; the consumer's thread sends all that has come together
    while its last round trip was under way, and asks for as many jobs as threads are idle by then.

    So nothing waits for a batch to fill: an idle process sends a single finish at once, a busy one many together.
    Lives on the broker, as Dramatiq replaces a consumer that failed.
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
        # Whether Redis may have something: it rang, an acquire answered all that was asked, or something is due.
        self._is_worth_asking = True
        self._ask_at = 0.0
        self._has_no_thread = False

    # -- from any thread -----------------------------------------------------------------------------------------

    def finish(self, lease: RunningLease, arguments: Arguments) -> None:
        """Takes what ends a lease (see `encode_finish`) and gives the thread back; sent by the consumer's thread."""
        with self._changed:
            self._finished.append(_Finished(lease, arguments, time.monotonic()))
            self._idle.give_back(1)
            self._changed.notify_all()

    def ring(self) -> None:
        """There may be something to acquire."""
        with self._changed:
            self._is_worth_asking = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._has_no_thread = False
            self._changed.notify_all()

    def send_overdue(self) -> None:
        """Sends what a consumer that is paused or being replaced has left lying. Raises QueueUnavailable."""
        with self._changed:
            is_overdue = self._finished and time.monotonic() - self._finished[0].since >= _OVERDUE_SECONDS
        if is_overdue:
            self.send_finished()

    def await_finished(self, timeout_seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._finished), timeout_seconds)

    def send_finished(self) -> None:
        """Sends what has been handed in, without acquiring. Raises QueueUnavailable; then nothing is forgotten."""
        with self._changed:
            finished, self._finished = self._finished, []
        if not finished:
            return
        try:
            self._settle(finished, self._queue.finish_many([entry.arguments for entry in finished]))
        except QueueUnavailable:
            self._put_back(finished)
            raise
        except Exception:  # noqa: BLE001 - one that can't be done must not take the others along
            self._send_singly(finished)

    # -- from the consumer's thread ------------------------------------------------------------------------------

    def run(self, timeout_seconds: float) -> Sequence[AcquiredJob]:
        """Waits until there is something to send or to ask for, then makes one round trip. Raises QueueUnavailable.
        Returns at once when the process is stopping.

        Each job that is answered has a thread taken for it, which `finish` gives back.
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
        """Gives back what a lost answer may have handed out; what can't be given back now returns with its lease."""
        self._idle.leave(self._pool)
        request, self._request = self._request, None
        if request is None:
            return
        self._put_back(request.finished)
        self._idle.give_back(request.count)
        try:
            # With a count of 0 only a replay can hand out anything.
            batch = self._queue.acquire(self._pool, 0, worker=self._worker, request_id=request.id)
            for acquired in batch.jobs:
                self._queue.finish(acquired.job.id, acquired.token, Outcome.RELEASE)
        except QueueUnavailable as error:
            _log.warning("queue_unreachable", pool=self._pool, error=error.message)

    def give_up(self) -> None:
        """Forgets what could not be sent; those jobs come back when their leases have expired."""
        with self._changed:
            finished, self._finished = self._finished, []
        for entry in finished:
            self._leases.remove(entry.lease)
            _log.error("finish_given_up", job=entry.lease.job.id)

    # -- inside --------------------------------------------------------------------------------------------------

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
                # A ring from here on is for something that this request may not see.
                self._is_worth_asking = False
        if count == 0 and not finished:
            return None
        self._number += 1
        return _Request(f"{self._prefix}-{self._number}", count, finished)

    def _settle(self, finished: Sequence[_Finished], applied: Sequence[bool]) -> None:
        for entry, is_applied in zip(finished, applied, strict=True):
            self._leases.remove(entry.lease)
            # Refused the second time, it was most likely applied the first time.
            if not is_applied and not entry.was_sent:
                _log.warning("finish_refused", job=entry.lease.job.id, token=entry.lease.token)

    def _put_back(self, finished: list[_Finished]) -> None:
        for entry in finished:
            entry.was_sent = True
        with self._changed:
            self._finished = finished + self._finished

    def _send_singly(self, finished: list[_Finished]) -> None:
        """After a script that failed: one finish that can't be done, now or later, must not take others along."""
        for number, entry in enumerate(finished):
            entry.was_sent = True
            try:
                self._settle([entry], self._queue.finish_many([entry.arguments]))
            except QueueUnavailable:
                self._put_back(finished[number:])
                return
            except Exception:  # noqa: BLE001 - whatever it is, the job comes back when its lease has expired
                _log.exception("finish_failed", job=entry.lease.job.id)
                self._leases.remove(entry.lease)
