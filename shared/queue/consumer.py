"""Hands the queue's jobs of one pool to a stock Dramatiq worker."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import DecodeError

from shared.queue.errors import QueueUnavailable
from shared.queue.lease import RunningLease, Settlement
from shared.queue.messages import message_of
from shared.queue.records import Outcome

if TYPE_CHECKING:
    from shared.queue.broker import PriorityBroker

_LONGEST_WAIT_SECONDS = 1.0

_log: Any = structlog.get_logger(__name__)


class LeasedMessage(MessageProxy):
    """A message with the lease it runs under."""

    def __init__(self, message: Message[Any], lease: RunningLease) -> None:
        super().__init__(message)
        self.lease = lease
        # Dramatiq clears its own record of the exception; the outcome is decided by this one.
        self.error: BaseException | None = None


class PriorityConsumer(Consumer):
    """Acquires as many jobs as this process has idle threads and waits at the doorbell when there are none.

    Leases live on the broker, because Dramatiq replaces a consumer that failed.
    """

    def __init__(self, broker: PriorityBroker, pool: str, timeout_seconds: float) -> None:
        self._broker = broker
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._cache: deque[LeasedMessage] = deque()
        # A request whose reply was lost, and the idle threads kept for it: asked again, it gets the same jobs.
        self._request: tuple[str, int] | None = None
        self._failures = 0

    def __next__(self) -> MessageProxy | None:
        if self._broker.stopping.is_set():
            self.close()
            self._broker.closing.wait(min(self._timeout_seconds, 0.25))
            return None
        if self._cache:
            return self._cache.popleft()
        if self._request is None:
            count = self._broker.idle.take_all(self._timeout_seconds)
            if count == 0:
                return None
            self._request = (uuid.uuid4().hex, count)
        rings = self._broker.doorbell.rings(self._pool)
        try:
            next_due = self._acquire(*self._request)
        except QueueUnavailable as error:
            self._failures += 1
            _log.warning("queue_unreachable", pool=self._pool, error=error.message)
            self._broker.stopping.wait(min(1.0, 0.05 * 2 ** min(self._failures, 5)))
            return None
        self._request, self._failures = None, 0
        if self._cache:
            return self._cache.popleft()
        wait = min(self._timeout_seconds, _LONGEST_WAIT_SECONDS)
        self._broker.doorbell.wait(self._pool, rings, wait if next_due is None else min(wait, next_due + 0.001))
        return None

    def _acquire(self, request_id: str, count: int) -> float | None:
        batch = self._broker.queue.acquire(self._pool, count, worker=self._broker.worker, request_id=request_id)
        for acquired in batch.jobs:
            lease = RunningLease(acquired, stopping=self._broker.stopping)
            self._broker.leases.add(lease)
            try:
                message = message_of(acquired.job)
            except DecodeError as error:
                _log.error("message_unreadable", job=acquired.job.id, error=str(error))
                self._broker.finish(lease, Settlement(Outcome.DEAD, reason="unreadable"))
                continue
            self._cache.append(LeasedMessage(message, lease))
        self._broker.idle.give_back(count - len(batch.jobs))
        return batch.next_due_seconds

    def ack(self, message: MessageProxy) -> None:
        self._broker.settle(message, is_rejected=False)

    def nack(self, message: MessageProxy) -> None:
        self._broker.settle(message, is_rejected=True)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """What was acquired but never started goes back to its place, at once."""
        for message in messages:
            if isinstance(message, LeasedMessage):
                self._broker.finish(message.lease, Settlement(Outcome.RELEASE))

    def close(self) -> None:
        self._abandon_request()
        while self._cache:
            self.requeue([self._cache.popleft()])

    def _abandon_request(self) -> None:
        """Gives back what a lost reply may have handed out; what can't be given back now returns with its lease."""
        if self._request is None:
            return
        (request_id, count), self._request = self._request, None
        try:
            # With a count of 0 only a replay can hand out anything.
            batch = self._broker.queue.acquire(self._pool, 0, worker=self._broker.worker, request_id=request_id)
            for acquired in batch.jobs:
                self._broker.queue.finish(acquired.job.id, acquired.token, Outcome.RELEASE)
        except QueueUnavailable as error:
            _log.warning("queue_unreachable", pool=self._pool, error=error.message)
        finally:
            self._broker.idle.give_back(count)
