"""Registers a process that serves no pool, so that operators see it among the workers."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version

from shared.background import PeriodicTask
from shared.queue.errors import QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerRecord

REGISTER_SECONDS = 5.0
EXPIRES_SECONDS = 15.0


class Registration:
    """From `start` to `stop`. `role` is one of records.ROLES, `threads` how much it does at once.

    `reason` returns what operators should know, "" for nothing.
    """

    def __init__(self, queue: RedisJobQueue, role: str, *, threads: int, reason: Callable[[], str]) -> None:
        host = socket.gethostname()
        self._queue = queue
        self._reason = reason
        self._record = WorkerRecord(
            role,
            f"{host}-{role}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
            threads,
            0,
            host=host,
            version=version("cloudify"),
        )
        self._task = PeriodicTask(f"{role}-registration", self._register, REGISTER_SECONDS)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(1.0)
        # While Redis is away the record expires by itself.
        with suppress(QueueUnavailable):
            self._queue.unregister_worker(self._record.pool, self._record.worker)

    def _register(self) -> None:
        record = replace(self._record, reason=self._reason())
        # It registers again in some seconds; others log that Redis is away.
        with suppress(QueueUnavailable):
            self._queue.register_worker(record, expires_seconds=EXPIRES_SECONDS)
