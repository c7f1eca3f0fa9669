"""A Dramatiq broker over the queue. Stock workers, the CLI and most middleware run on it unchanged.

Three of Dramatiq's default middleware are left out. The lease's own settlement replaces Retries, which would enqueue a
copy before the old message is acknowledged, lose it if Redis is away in between, and know nothing of slots or of
attempts that ended in a crash. (It works if it is added: its copies are sent with the acknowledgement.) TimeLimit can't
interrupt a wait for a subprocess, and stages have limits of their own. AgeLimit would drop work that must be accounted
for. Add any of them if an actor of your own needs it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import dramatiq
import structlog
from dramatiq import Message
from dramatiq.actor import Actor
from dramatiq.broker import MessageProxy
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import Callbacks, CurrentMessage, Middleware, Pipelines, ShutdownNotifications

from shared.backoff import Backoff
from shared.queue.dramatiq.consumer import LeasedMessage, PriorityConsumer
from shared.queue.dramatiq.exchange import Exchange
from shared.queue.dramatiq.heartbeat import Heartbeat
from shared.queue.dramatiq.holds import Holds
from shared.queue.dramatiq.idle_threads import IdleThreads
from shared.queue.dramatiq.lease import LeaseTable, RunningLease, Settlement, current_lease, current_running_lease
from shared.queue.dramatiq.lease_context import LeaseContext
from shared.queue.dramatiq.messages import job_of
from shared.queue.dramatiq.notifier import Notifier
from shared.queue.dramatiq.settlement import settlement_of
from shared.queue.encoding import encode_finish
from shared.queue.errors import QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerRecord
from shared.signals import Signal

__all__ = ["PriorityBroker", "current_lease"]

_log: Any = structlog.get_logger(__name__)

# After an actor raised.
_RETRY = Backoff(2.0, 300.0)
# Between attempts to send finishes while Redis is away.
_SEND_AGAIN = Backoff(0.05, 2.0, jitter=0.0)
_DRAIN_LOOK_SECONDS = 0.05


class PriorityBroker(dramatiq.Broker):
    """The broker of a process. `worker` names the process in the queue: by default host, process id and a random part.

    `middleware` comes after LeaseContext, which is always present. Idle threads ask Redis every `poll_seconds` even
    without a notification.
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
        super().__init__(middleware=[LeaseContext(self), *middleware])
        self.queue = queue
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.queues: dict[str, None] = {}
        self.backoff = backoff or _RETRY
        self._poll_seconds = poll_seconds
        self._version = version("cloudify")
        self.leases = LeaseTable()
        self.idle = IdleThreads()
        self.stopping = Signal()
        # Set when there is no time left to wait: ends the pauses between attempts.
        self.closing = threading.Event()
        self._stop_by: float | None = None
        self._exchanges: dict[str, Exchange] = {}
        self._life = threading.Lock()
        self._is_up = False
        self.heartbeat = Heartbeat(
            queue, self.leases,
            worker=self.worker, describe=self._describe, pools=self._exchanges.copy, on_tick=self._send_overdue,
        )  # fmt: skip
        self.holds = Holds(self.idle, self.heartbeat.beat_soon)
        self.notifier = Notifier(
            queue.redis, on_ready=self._notify, on_cancel=self.leases.cancel, on_connect=self._connected
        )

    # -- the worker's life ---------------------------------------------------------------------------------------

    def boot(self, threads: int) -> None:
        """Starts the heartbeat and the notifier for a worker with this many threads."""
        with self._life:
            self.idle.resize(threads)
            if self._is_up:
                return
            self.stopping.clear()
            self.closing.clear()
            self._stop_by = None
            self.heartbeat.start()
            self.notifier.start()
            self._is_up = True

    def drain_jobs(self, seconds: float, is_ended: Callable[[], bool]) -> bool:
        """Acquires nothing more and waits until no job runs, at most so long or until `is_ended`.

        Returns whether all have ended. Call it before the worker is stopped.
        """
        self.holds.drain()
        deadline = time.monotonic() + seconds
        while self.leases.all():
            if is_ended() or time.monotonic() >= deadline:
                return False
            time.sleep(_DRAIN_LOOK_SECONDS)
        return True

    def stop_acquiring(self) -> None:
        """Stops acquiring. From then on jobs are only finished or released, and running jobs see `stopping`."""
        self._stop_by = time.monotonic() + self.queue.lease_seconds
        self.stopping.set()
        for exchange in self._exchanges.copy().values():
            exchange.notify()

    def shut_down(self) -> None:
        with self._life:
            if not self._is_up:
                return
            self._is_up = False
        self.stopping.set()
        self.closing.set()
        self.notifier.stop()
        self.heartbeat.stop()

    def close(self) -> None:
        """Ends the broker's threads. The caller closes the Redis client."""
        self.shut_down()

    # -- Dramatiq's interface ------------------------------------------------------------------------------------

    def declare_queue(self, queue_name: str) -> None:
        """Declares no delay queue, because workers would hold delayed messages in memory."""
        if queue_name in self.queues:
            return
        self.emit_before("declare_queue", queue_name)
        self.queues[queue_name] = None
        self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> PriorityConsumer:
        """`prefetch` is used only if no Worker has set its number of threads."""
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        if not self._is_up and not self.stopping.is_set():
            self.boot(prefetch)
        exchange = self._exchange(queue_name)
        self.heartbeat.beat_soon()
        return PriorityConsumer(self, exchange, timeout / 1000)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """`delay` in milliseconds. Raises QueueUnavailable or QueueFull.

        Messages that middleware enqueues after an actor returned are sent with the acknowledgement, in one step.
        """
        if message.queue_name not in self.queues:
            raise QueueNotFound(message.queue_name)
        self.emit_before("enqueue", message, delay)
        job = job_of(message, self.actors.get(message.actor_name))
        lease = current_running_lease()
        if lease is not None and lease.is_collecting:
            lease.sent_jobs.append((job, (delay or 0) / 1000))
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
        """Removes a queue's waiting messages. Running ones are not interrupted."""
        for job_id in self.queue.jobs_in_line(queue_name):
            self.queue.cancel(job_id)

    def flush_all(self) -> None:
        for queue_name in self.queues:
            self.flush(queue_name)

    def join(self, queue_name: str, *, interval: int = 20, timeout: int | None = None) -> None:
        """For tests: waits until no message waits, is delayed or runs. Milliseconds. Raises QueueJoinTimeout."""
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while any(row.pool == queue_name and row.depth + row.inflight + row.delayed > 0 for row in self.queue.stats()):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)
            time.sleep(interval / 1000)

    # -- the end of a job ----------------------------------------------------------------------------------------

    def settle(self, message: MessageProxy, *, is_rejected: bool) -> None:
        """Settles a message that has been processed."""
        if not isinstance(message, LeasedMessage):
            raise TypeError(f"{message!r} was not consumed from this broker.")
        actor: Actor[..., Any] | None = self.actors.get(message.actor_name)
        options = {**(actor.options if actor is not None else {}), **message.options}
        # For a message that never ran (unknown actor) only Dramatiq has the reason.
        error = message.error or message._exception  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        settlement = settlement_of(message.lease, options, error, is_rejected=is_rejected, backoff=self.backoff)
        self.finish(message.lease, settlement)

    def finish(self, lease: RunningLease, settlement: Settlement) -> None:
        """Queues the end of a lease. It is sent with the next round trip, until Redis answers (see Exchange).

        The lease is renewed meanwhile. If sending is given up or fails, the job runs again after its lease has expired.
        """
        if lease.is_settled:
            return
        lease.is_settled = True
        try:
            arguments = encode_finish(
                lease.job.id,
                lease.token,
                settlement.disposition,
                delay_seconds=settlement.delay_seconds,
                reason=settlement.reason or "rejected",
                next_jobs=self.queue.all_bounded([*settlement.next_jobs, *lease.sent_jobs]),
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
        """Sends all queued finishes. A process that is stopping tries for the length of one lease, then gives up."""
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

    # -- called by the threads -----------------------------------------------------------------------------------

    def _exchange(self, pool: str) -> Exchange:
        with self._life:
            if pool not in self._exchanges:
                self._exchanges[pool] = Exchange(
                    self.queue, pool,
                    worker=self.worker, idle=self.idle, leases=self.leases, stopping=self.stopping,
                    poll_seconds=self._poll_seconds,
                )  # fmt: skip
            return self._exchanges[pool]

    def _describe(self, pool: str) -> WorkerRecord:
        return WorkerRecord(
            pool, self.worker, self.idle.total, len(self.leases.all()),
            host=socket.gethostname(), version=self._version, state=self.holds.state, reason=self.holds.reason,
        )  # fmt: skip

    def _notify(self, pool: str) -> None:
        if pool in self._exchanges:
            self._exchanges[pool].notify()

    def _connected(self) -> None:
        for exchange in self._exchanges.copy().values():
            exchange.notify()
        self.heartbeat.beat_soon()

    def _send_overdue(self) -> None:
        for exchange in self._exchanges.copy().values():
            exchange.send_overdue()
