"""A Dramatiq broker over the queue. Stock workers, the CLI and most middleware run on it unchanged.

Of Dramatiq's default middleware three are left out. Retries is replaced by the lease's own outcome: it would enqueue a
copy before the old message is acknowledged, losing it when Redis is away in between, and it knows nothing of slots or
of attempts that ended in a crash (added all the same, it works: what it enqueues goes out with the acknowledgement).
TimeLimit can't interrupt a wait for a subprocess, and the code that runs stages has limits of its own. AgeLimit would
drop work that must be accounted for. Add any of them where an actor of your own needs it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import dramatiq
import structlog
from dramatiq import Message, Worker
from dramatiq.actor import Actor
from dramatiq.broker import MessageProxy
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import Callbacks, CurrentMessage, Middleware, Pipelines, ShutdownNotifications

from shared.backoff import Backoff
from shared.queue.dramatiq.consumer import LeasedMessage, PriorityConsumer
from shared.queue.dramatiq.exchange import Exchange
from shared.queue.dramatiq.heartbeat import Heartbeat
from shared.queue.dramatiq.idle_threads import IdleThreads
from shared.queue.dramatiq.lease import (
    LeaseTable,
    RunningLease,
    Settlement,
    current_lease,
    current_running_lease,
    set_current_lease,
)
from shared.queue.dramatiq.messages import job_of
from shared.queue.dramatiq.notifier import Doorbell
from shared.queue.dramatiq.outcome import settle
from shared.queue.dramatiq.work_queue import WorkQueue
from shared.queue.encoding import encode_finish
from shared.queue.errors import QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.signals import Signal

__all__ = ["LeaseContext", "PriorityBroker", "current_lease"]

_log: Any = structlog.get_logger(__name__)

# After an actor raised.
_RETRY = Backoff(2.0, 300.0)
# Between attempts to send what has been handed in while Redis is away.
_SEND_AGAIN = Backoff(0.05, 2.0, jitter=0.0)


class LeaseContext(Middleware):
    """Sets `current_lease` around an actor and ties the broker's threads to the worker's life. Always the first."""

    @property
    def actor_options(self) -> set[str]:
        # Those of Retries that the lease's outcome honours.
        return {"max_retries", "min_backoff", "max_backoff", "throws"}

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Worker) -> None:
        worker.work_queue = WorkQueue()  # pyright: ignore[reportAttributeAccessIssue]
        _priority(broker).boot(worker.worker_threads)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        _priority(broker).stop_acquiring()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        _priority(broker).shut_down()

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        if isinstance(message, LeasedMessage):
            set_current_lease(message.lease)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if isinstance(message, LeasedMessage):
            message.error = exception
        set_current_lease(None)

    def after_skip_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        set_current_lease(None)


class PriorityBroker(dramatiq.Broker):
    """One a process. `worker` names the process in the queue; by default host, process id and a random part.

    `middleware` follows LeaseContext, which is always there. Idle threads ask Redis each `poll_seconds` even if it
    didn't ring.
    """

    def __init__(
        self,
        queue: RedisJobQueue,
        *,
        worker: str | None = None,
        middleware: Sequence[Middleware] | None = None,
        backoff: Backoff | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        if middleware is None:
            middleware = [ShutdownNotifications(), Callbacks(), Pipelines(), CurrentMessage()]
        super().__init__(middleware=[LeaseContext(), *middleware])
        self.queue = queue
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.queues: dict[str, None] = {}
        self.backoff = backoff or _RETRY
        self._poll_seconds = poll_seconds
        self.leases = LeaseTable()
        self.idle = IdleThreads()
        self.stopping = Signal()
        # Set when nothing more can be waited for: ends the sleeps of what still retries.
        self.closing = threading.Event()
        self._stop_by: float | None = None
        self._exchanges: dict[str, Exchange] = {}
        self._life = threading.Lock()
        self._is_up = False
        self.heartbeat = Heartbeat(
            queue, self.leases, self.idle,
            worker=self.worker, pools=self._exchanges.copy, on_tick=self._send_overdue,
        )  # fmt: skip
        self.doorbell = Doorbell(
            queue.redis, on_ring=self._ring, on_cancel=self.leases.cancel, on_connect=self._connected
        )

    # -- the worker's life ---------------------------------------------------------------------------------------

    def boot(self, threads: int) -> None:
        """Starts the heartbeat and the doorbell, for a worker of so many threads."""
        with self._life:
            self.idle.resize(threads)
            if self._is_up:
                return
            self.stopping.clear()
            self.closing.clear()
            self._stop_by = None
            self.heartbeat.start()
            self.doorbell.start()
            self._is_up = True

    def stop_acquiring(self) -> None:
        """From here on jobs are only finished or handed back; those that run see `stopping`."""
        self._stop_by = time.monotonic() + self.queue.lease_seconds
        self.stopping.set()
        for exchange in self._exchanges.copy().values():
            exchange.ring()

    def shut_down(self) -> None:
        with self._life:
            if not self._is_up:
                return
            self._is_up = False
        self.stopping.set()
        self.closing.set()
        self.doorbell.stop()
        self.heartbeat.stop()

    def close(self) -> None:
        """Ends the broker's threads. The Redis client belongs to whoever made it."""
        self.shut_down()

    # -- Dramatiq's interface ------------------------------------------------------------------------------------

    def declare_queue(self, queue_name: str) -> None:
        """Never declares a delay queue: that would make workers hold delayed messages in their memory."""
        if queue_name in self.queues:
            return
        self.emit_before("declare_queue", queue_name)
        self.queues[queue_name] = None
        self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> PriorityConsumer:
        """`prefetch` counts only where no Worker has said how many threads it has."""
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        if not self._is_up and not self.stopping.is_set():
            self.boot(prefetch)
        exchange = self._exchange(queue_name)
        self.heartbeat.beat_soon()
        return PriorityConsumer(self, exchange, timeout / 1000)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """`delay` in milliseconds. Raises QueueUnavailable or QueueFull.

        What middleware enqueues after an actor returned goes out with the acknowledgement, in one step.
        """
        if message.queue_name not in self.queues:
            raise QueueNotFound(message.queue_name)
        self.emit_before("enqueue", message, delay)
        job = job_of(message, self.actors.get(message.actor_name))
        lease = current_running_lease()
        if lease is not None and lease.is_collecting:
            lease.followers.append((job, (delay or 0) / 1000))
        else:
            self.queue.enqueue(job, delay_seconds=(delay or 0) / 1000)
        self.emit_after("enqueue", message, delay)
        return message

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        lease = current_running_lease() if signal == "process_message" else None
        if lease is None:
            super().emit_after(signal, *args, **kwargs)
            return
        with lease.collecting():
            super().emit_after(signal, *args, **kwargs)

    def flush(self, queue_name: str) -> None:
        """Drops what waits in a queue; what runs goes on."""
        for job_id in self.queue.jobs_in_line(queue_name):
            self.queue.cancel(job_id)

    def flush_all(self) -> None:
        for queue_name in self.queues:
            self.flush(queue_name)

    def join(self, queue_name: str, *, interval: int = 20, timeout: int | None = None) -> None:
        """For tests: waits until nothing waits, is delayed or runs. Milliseconds. Raises QueueJoinTimeout."""
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while any(row.pool == queue_name and row.depth + row.inflight + row.delayed > 0 for row in self.queue.stats()):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)
            time.sleep(interval / 1000)

    # -- the end of a job ----------------------------------------------------------------------------------------

    def settle(self, message: MessageProxy, *, is_rejected: bool) -> None:
        """Applies the outcome of a message that has been processed."""
        if not isinstance(message, LeasedMessage):
            raise TypeError(f"{message!r} was not consumed from this broker.")
        actor: Actor[..., Any] | None = self.actors.get(message.actor_name)
        options = {**(actor.options if actor is not None else {}), **message.options}
        # A message that never ran (unknown actor) has its reason from Dramatiq alone.
        error = message.error or message._exception  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        settlement = settle(message.lease, options, error, is_rejected=is_rejected, backoff=self.backoff)
        self.finish(message.lease, settlement)

    def finish(self, lease: RunningLease, settlement: Settlement) -> None:
        """Hands in what ends a lease; it is sent with the next round trip, until Redis answers (see Exchange).

        The heartbeat goes on meanwhile. Given up or failed, the job comes back when its lease has expired.
        """
        if lease.is_settled:
            return
        lease.is_settled = True
        try:
            arguments = encode_finish(
                lease.job.id,
                lease.token,
                settlement.outcome,
                delay_seconds=settlement.delay_seconds,
                reason=settlement.reason or "rejected",
                next_jobs=self.queue.all_bounded([*settlement.next_jobs, *lease.followers]),
            )
        except BaseException:
            self.leases.remove(lease)
            self.idle.give_back(1)
            raise
        exchange = self._exchange(lease.job.pool)
        exchange.finish(lease, arguments)
        if not self._is_up:
            self.drain(exchange)

    def drain(self, exchange: Exchange) -> None:
        """Sends all that has been handed in. A process that is stopping tries for one lease, then gives up."""
        failures = 0
        while True:
            try:
                exchange.send_finished()
                return
            except QueueUnavailable as error:
                failures += 1
                _log.warning("finish_delayed", error=error.message)
            if self.closing.is_set() or (self._stop_by is not None and time.monotonic() > self._stop_by):
                exchange.give_up()
                return
            self.closing.wait(_SEND_AGAIN.delay_seconds(failures))

    # -- what the threads call -----------------------------------------------------------------------------------

    def _exchange(self, pool: str) -> Exchange:
        with self._life:
            if pool not in self._exchanges:
                self._exchanges[pool] = Exchange(
                    self.queue, pool,
                    worker=self.worker, idle=self.idle, leases=self.leases, stopping=self.stopping,
                    poll_seconds=self._poll_seconds,
                )  # fmt: skip
            return self._exchanges[pool]

    def _ring(self, pool: str) -> None:
        if pool in self._exchanges:
            self._exchanges[pool].ring()

    def _connected(self) -> None:
        for exchange in self._exchanges.copy().values():
            exchange.ring()
        self.heartbeat.beat_soon()

    def _send_overdue(self) -> None:
        for exchange in self._exchanges.copy().values():
            exchange.send_overdue()


def _priority(broker: dramatiq.Broker) -> PriorityBroker:
    if not isinstance(broker, PriorityBroker):
        raise TypeError("LeaseContext belongs to a PriorityBroker.")
    return broker
