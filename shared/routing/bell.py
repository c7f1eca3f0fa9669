"""Wakes routers when the log of route changes has grown, and remembers how far it has.

Both are hints, kept in Redis: a router polls the log twice a second anyway. The remembered position tells a router that
can't reach PostgreSQL whether it serves what others no longer do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from shared.background import BackgroundThread
from shared.backoff import Backoff
from shared.routing.changes import Position

CHANNEL = "routes:changed"
_POSITION = "routes:position"
_POLL_SECONDS = 5.0
_RECONNECT = Backoff(0.1, 2.0)
# After a failure nothing is sent for so long, so that releases don't wait for a Redis that is away.
_REST_SECONDS = 2.0

# A position of another epoch replaces the remembered one; of the same epoch only a greater one does.
_REMEMBER = """
local known = redis.call('HMGET', KEYS[1], 'epoch', 'number')
if known[1] ~= ARGV[1] or tonumber(known[2]) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'number', ARGV[2])
end
return 1
"""

_log: Any = structlog.get_logger(__name__)


class RouteBell:
    """Safe from any thread; never raises."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._resting_until = 0.0

    def ring(self) -> None:
        """Wakes all routers. A ring that is lost costs a second."""
        self._try(lambda: self._redis.publish(CHANNEL, b""))

    def remember(self, position: Position) -> bool:
        """Keeps the position for routers that can't reach PostgreSQL. Returns whether Redis has it now."""
        return self._try(lambda: self._redis.eval(_REMEMBER, 1, _POSITION, position.epoch, position.number))

    def _try(self, send: Callable[[], object]) -> bool:
        if time.monotonic() < self._resting_until:
            return False
        try:
            send()
        except (RedisError, OSError):
            self._resting_until = time.monotonic() + _REST_SECONDS
            return False
        return True

    def remembered(self) -> Position | None:
        """The greatest position that was rung; None if Redis doesn't know or doesn't answer."""
        try:
            known: list[Any] = self._redis.hmget(_POSITION, "epoch", "number")
        except (RedisError, OSError):
            return None
        epoch, number = known
        if epoch is None or number is None:
            return None
        return Position(epoch.decode(), int(number))


class RouteListener:
    """Calls `wake` on a thread of its own whenever the bell rings, and after each connection, as rings may be lost."""

    def __init__(self, redis: Redis, wake: Callable[[], None]) -> None:
        self._redis = redis
        self._wake = wake
        self._thread = BackgroundThread("route-listener", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop(_POLL_SECONDS)

    def _run(self, stopping: threading.Event) -> None:
        failures = 0
        while not stopping.is_set():
            subscription: Any = self._redis.pubsub()
            try:
                subscription.subscribe(CHANNEL)
                while not stopping.is_set():
                    if subscription.get_message(timeout=_POLL_SECONDS) is not None:
                        failures = 0
                        self._wake()
            except (RedisError, OSError) as error:
                failures += 1
                _log.warning("router.bell_lost", error=str(error))
                stopping.wait(_RECONNECT.delay_seconds(failures))
            finally:
                subscription.close()
