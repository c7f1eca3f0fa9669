"""Wakes waiting consumers when there is something to acquire, and tells running jobs that they were cancelled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

NEW_CHANNEL = "build:new"  # the data is a pool's name
CANCEL_CHANNEL = "build:cancel"  # the data is a job's id
_POLL_SECONDS = 0.5

_log: Any = structlog.get_logger(__name__)


class Doorbell:
    """One subscription a process, on a thread of its own.

    A message may be lost while the connection is being made again, so a new subscription rings for every pool and
    calls `on_reconnect`. `on_cancel` gets a job's id; both are called on the doorbell's thread.
    """

    def __init__(self, redis: Redis, *, on_cancel: Callable[[str], None], on_reconnect: Callable[[], None]) -> None:
        self._redis = redis
        self._on_cancel = on_cancel
        self._on_reconnect = on_reconnect
        self._condition = threading.Condition()
        self._rings: Counter[str] = Counter()
        self._rings_for_all = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="queue-doorbell", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self.ring_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def rings(self, pool: str) -> int:
        """How often it has rung. Read it before you look for work, then wait for it to grow."""
        with self._condition:
            return self._rings[pool] + self._rings_for_all

    def wait(self, pool: str, rings: int, timeout_seconds: float) -> bool:
        with self._condition:
            return self._condition.wait_for(
                lambda: self._rings[pool] + self._rings_for_all != rings, max(0.0, timeout_seconds)
            )

    def ring_all(self) -> None:
        with self._condition:
            self._rings_for_all += 1
            self._condition.notify_all()

    def _ring(self, pool: str) -> None:
        with self._condition:
            self._rings[pool] += 1
            self._condition.notify_all()

    def _run(self) -> None:
        delay = 0.05
        while not self._stopped.is_set():
            subscription: Any = self._redis.pubsub()
            try:
                subscription.subscribe(NEW_CHANNEL, CANCEL_CHANNEL)
                while not self._stopped.is_set():
                    message = subscription.get_message(timeout=_POLL_SECONDS)
                    if message is not None:
                        delay = 0.05
                        self._receive(message)
            except (RedisError, OSError) as error:
                _log.warning("queue_doorbell_disconnected", error=str(error))
                self._stopped.wait(delay)
                delay = min(1.0, delay * 2)
            finally:
                subscription.close()

    def _receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self.ring_all()
            self._on_reconnect()
        elif message["type"] == "message" and message["channel"] == NEW_CHANNEL.encode():
            self._ring(message["data"].decode())
        elif message["type"] == "message":
            self._on_cancel(message["data"].decode())
