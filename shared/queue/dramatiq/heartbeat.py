"""Renews this process's leases, on a thread that no job can block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import structlog

from shared.background import PeriodicTask
from shared.backoff import Backoff
from shared.queue.dramatiq.lease import LeaseTable
from shared.queue.errors import QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import BeatAnswer, WorkerRecord

_SWEEP_SECONDS = 1.0
_REGISTER_SECONDS = 5.0
_MAXIMUM_RETRY_SECONDS = 0.5
_BATCH = 500

_log: Any = structlog.get_logger(__name__)


class Heartbeat:
    """Renews leases every third of their length, sweeps and calls `on_tick` each second, and registers the worker.

    No lease is declared lost while Redis can't be reached: jobs continue, the token fences their database writes, and
    the first reply decides. Leases that Redis has forgotten (FLUSHALL) are lost by its reply.
    """

    def __init__(
        self,
        queue: RedisJobQueue,
        leases: LeaseTable,
        *,
        worker: str,
        describe: Callable[[str], WorkerRecord],
        pools: Callable[[], Collection[str]],
        on_tick: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._leases = leases
        self._worker = worker
        self._pools = pools
        self._describe = describe
        self._on_tick = on_tick
        self._beat_seconds = queue.lease_seconds / 3
        self._retry_seconds = min(_MAXIMUM_RETRY_SECONDS, self._beat_seconds)
        self._beat_at = self._register_at = self._sweep_at = 0.0
        self._is_beat_asked_for = threading.Event()
        retry = Backoff(self._retry_seconds, self._retry_seconds, jitter=0.0)
        self._task = PeriodicTask("queue-heartbeat", self._tick, _SWEEP_SECONDS, retry=retry)

    def start(self) -> None:
        self._beat_at = self._register_at = self._sweep_at = time.monotonic()
        self._task.start()

    def stop(self) -> None:
        """Ends the heartbeat and removes the worker from the registry."""
        self._task.stop()
        try:
            for pool in self._pools():
                self._queue.unregister_worker(pool, self._worker)
        except QueueUnavailable:
            pass  # the record expires

    def beat_soon(self) -> None:
        """Makes the heartbeat's thread renew and register at once."""
        self._is_beat_asked_for.set()
        self._task.wake()

    def _tick(self) -> float:
        """Does what is due. Returns the seconds until something is due again."""
        now = time.monotonic()
        if self._is_beat_asked_for.is_set():
            self._is_beat_asked_for.clear()
            self._beat_at = self._register_at = now
        try:
            if now >= self._beat_at:
                self._beat()
                self._beat_at = now + self._beat_seconds
            if now >= self._register_at:
                self._register()
                self._register_at = now + _REGISTER_SECONDS
            if now >= self._sweep_at:
                self._sweep_at = now + _SWEEP_SECONDS
                self._queue.sweep()
                self._on_tick()
        except QueueUnavailable as error:
            _log.warning("queue_unreachable", error=error.message, leases=len(self._leases.all()))
            return self._retry_seconds
        return min(self._beat_at, self._register_at, self._sweep_at) - time.monotonic()

    def _beat(self) -> None:
        leases = [lease for lease in self._leases.all() if not lease.lost.is_set()]
        for start in range(0, len(leases), _BATCH):
            batch = leases[start : start + _BATCH]
            answers = self._queue.beat([(lease.job.id, lease.token) for lease in batch])
            for lease, answer in zip(batch, answers, strict=True):
                if answer is BeatAnswer.LOST and self._leases.holds(lease) and not lease.is_settled:
                    _log.warning("lease_lost", job=lease.job.id, token=lease.token)
                    lease.lost.set()
                elif answer is BeatAnswer.CANCELLED:
                    lease.cancelled.set()

    def _register(self) -> None:
        for pool in self._pools():
            self._queue.register_worker(self._describe(pool), expires_seconds=_REGISTER_SECONDS * 3)
