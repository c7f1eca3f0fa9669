"""Hands one pool's jobs to a stock Dramatiq worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import DecodeError

from schemas.messages import MESSAGE_VERSION
from shared.backoff import Backoff
from shared.queue.dramatiq.exchange import Exchange
from shared.queue.dramatiq.lease import RunningLease, Settlement
from shared.queue.dramatiq.messages import message_of
from shared.queue.errors import QueueUnavailable
from shared.queue.records import AcquiredJob, Disposition

if TYPE_CHECKING:
    from shared.queue.dramatiq.broker import PriorityBroker

_log: Any = structlog.get_logger(__name__)

# Meanwhile a newer worker takes it.
_LEFT_TO_NEWER_SECONDS = 5.0
_RETRY = Backoff(0.1, 1.0, jitter=0.0)


class LeasedMessage(MessageProxy):
    """A message with its lease."""

    def __init__(self, message: Message[Any], lease: RunningLease) -> None:
        super().__init__(message)
        self.lease = lease
        # Dramatiq clears its own record of the exception, so the settlement is decided by this one.
        self.error: BaseException | None = None


class PriorityConsumer(Consumer):
    """Acquires as many jobs as this process has idle threads. The exchange waits until there are any.

    Leases and the exchange belong to the broker, because Dramatiq replaces a consumer that failed.
    """

    def __init__(self, broker: PriorityBroker, exchange: Exchange, timeout_seconds: float) -> None:
        self._broker = broker
        self._exchange = exchange
        self._timeout_seconds = timeout_seconds
        self._cache: deque[LeasedMessage] = deque()
        self._failures = 0

    def __next__(self) -> MessageProxy | None:
        if self._cache and not self._broker.stopping.is_set():
            return self._cache.popleft()
        try:
            if self._broker.stopping.is_set():
                self._wind_down()
            else:
                for acquired in self._exchange.run(self._timeout_seconds):
                    self._take(acquired)
            self._failures = 0
        except QueueUnavailable as error:
            self._failures += 1
            _log.warning("queue_unreachable", error=error.message)
            ends = self._broker.closing if self._broker.stopping.is_set() else self._broker.stopping
            ends.wait(_RETRY.delay_seconds(self._failures))
        return self._cache.popleft() if self._cache and not self._broker.stopping.is_set() else None

    def _take(self, acquired: AcquiredJob) -> None:
        lease = RunningLease(acquired, stopping=self._broker.stopping)
        self._broker.leases.add(lease)
        if acquired.job.version > MESSAGE_VERSION:
            _log.warning("message_newer", job=acquired.job.id, version=acquired.job.version)
            settlement = Settlement(Disposition.RELEASE, delay_seconds=_LEFT_TO_NEWER_SECONDS)
            self._broker.finish(lease, settlement)
            return
        try:
            message = message_of(acquired.job)
        except DecodeError as error:
            _log.error("message_unreadable", job=acquired.job.id, error=str(error))
            self._broker.finish(lease, Settlement(Disposition.DEAD, reason="unreadable"))
            return
        self._cache.append(LeasedMessage(message, lease))

    def ack(self, message: MessageProxy) -> None:
        self._broker.settle(message, is_rejected=False)

    def nack(self, message: MessageProxy) -> None:
        self._broker.settle(message, is_rejected=True)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Returns messages that were acquired but never started to their places in line."""
        for message in messages:
            if isinstance(message, LeasedMessage):
                self._broker.finish(message.lease, Settlement(Disposition.RELEASE))

    def close(self) -> None:
        """Sends everything if the worker is stopping. Otherwise the next consumer continues with the exchange."""
        self._release_cache()
        if self._broker.stopping.is_set():
            self._exchange.abandon()
            self._broker.drain(self._exchange)

    def _wind_down(self) -> None:
        """Sends the finishes of jobs that still run, and acquires nothing."""
        self._release_cache()
        self._exchange.abandon()
        self._exchange.await_finished(min(self._timeout_seconds, 0.25))
        self._exchange.send_finished()

    def _release_cache(self) -> None:
        while self._cache:
            self.requeue([self._cache.popleft()])
