"""Wakes consumers when there may be a job to acquire, and tells running jobs that they were cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from shared.background import BackgroundThread
from shared.backoff import Backoff

NEW_CHANNEL = "build:new"  # the data is a pool's name
CANCEL_CHANNEL = "build:cancel"  # the data is a job's id
_POLL_SECONDS = 0.5
_RECONNECT = Backoff(0.05, 1.0, jitter=0.0)

_log: Any = structlog.get_logger(__name__)


class Notifier:
    """The subscription of a process, on a thread of its own.

    `on_ready` gets a pool's name, `on_cancel` a job's id. Messages may be lost while the connection is being restored,
    so a new subscription calls `on_connect`. All are called on the notifier's thread.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        on_ready: Callable[[str], None],
        on_cancel: Callable[[str], None],
        on_connect: Callable[[], None],
    ) -> None:
        self._redis = redis
        self._on_ready = on_ready
        self._on_cancel = on_cancel
        self._on_connect = on_connect
        self._thread = BackgroundThread("queue-notifier", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def _run(self, stopping: threading.Event) -> None:
        failures = 0
        while not stopping.is_set():
            subscription: Any = self._redis.pubsub()
            try:
                subscription.subscribe(NEW_CHANNEL, CANCEL_CHANNEL)
                while not stopping.is_set():
                    message = subscription.get_message(timeout=_POLL_SECONDS)
                    if message is not None:
                        failures = 0
                        self._receive(message)
            except (RedisError, OSError) as error:
                failures += 1
                _log.warning("queue_notifier_disconnected", error=str(error))
                stopping.wait(_RECONNECT.delay_seconds(failures))
            finally:
                subscription.close()

    def _receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._on_connect()
        elif message["type"] == "message" and message["channel"] == NEW_CHANNEL.encode():
            self._on_ready(message["data"].decode())
        elif message["type"] == "message":
            self._on_cancel(message["data"].decode())
