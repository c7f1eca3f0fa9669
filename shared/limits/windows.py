"""Sliding windows: limits of events within a time, counted exactly across all processes.

`RedisWindows` counts in Redis, atomically and with its clock. While Redis is unavailable, each process counts for
itself with `LocalWindows`, so that limits apply per process.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

import structlog
from redis import Redis
from redis.exceptions import NoScriptError, RedisError

from shared.clock import Clock
from shared.metrics import CommandTimes

_log = structlog.get_logger("limits")

# One hash tag: all windows of an event are on one node of a cluster.
_ROOT = "{cloudify:limits}:"
# After a failure Redis is not used for this long, so that not every request has to wait for it.
_REST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` (1 or more) events of `key` within any `seconds`."""

    key: str
    limit: int
    seconds: float


class Windows(Protocol):
    """Safe from any thread."""

    def take(self, windows: Sequence[Window], event: str) -> float:
        """Counts the event in all windows and returns 0, or counts it nowhere and returns the seconds to wait."""
        ...

    def give_back(self, windows: Sequence[Window], event: str) -> None:
        """Removes the event from the windows that count it."""
        ...


class LocalWindows:
    """Keeps the `maximum_keys` most recently used keys."""

    def __init__(self, clock: Clock, *, maximum_keys: int = 10_000) -> None:
        self._clock = clock
        self._maximum_keys = maximum_keys
        self._events: OrderedDict[str, dict[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, windows: Sequence[Window], event: str) -> float:
        now = self._clock.monotonic()
        with self._lock:
            waits = [self._wait(window, now) for window in windows]
            if any(waits):
                return max(waits)
            for window in windows:
                self._events.setdefault(window.key, {})[event] = now
                self._events.move_to_end(window.key)
            while len(self._events) > self._maximum_keys:
                self._events.popitem(last=False)
        return 0.0

    def give_back(self, windows: Sequence[Window], event: str) -> None:
        with self._lock:
            for window in windows:
                self._events.get(window.key, {}).pop(event, None)

    def _wait(self, window: Window, now: float) -> float:
        recent = {
            event: moment for event, moment in self._events.get(window.key, {}).items() if moment > now - window.seconds
        }
        if window.key in self._events:
            self._events[window.key] = recent
        if len(recent) < window.limit:
            return 0.0
        return list(recent.values())[-window.limit] + window.seconds - now


class RedisWindows:
    """`redis` should time out within about a second, because requests wait for it."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis: Any = redis
        self._clock = clock
        self._local = LocalWindows(clock)
        self._times = CommandTimes()
        self._script = (resources.files("shared.limits") / "take.lua").read_text()
        # The digest identifies a script; it is not used for security.
        self._digest = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._resting_until = 0.0

    def take(self, windows: Sequence[Window], event: str) -> float:
        if self._clock.monotonic() < self._resting_until:
            return self._local.take(windows, event)
        started = time.perf_counter()
        keys = [_ROOT + window.key for window in windows]
        arguments: list[str | int] = [event]
        for window in windows:
            arguments += (window.limit, int(window.seconds * 1000))
        try:
            try:
                reply = self._redis.evalsha(self._digest, len(keys), *keys, *arguments)
            except NoScriptError:
                reply = self._redis.eval(self._script, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:
            self._rest(error)
            return self._local.take(windows, event)
        finally:
            self._times.observe("take_window", time.perf_counter() - started)
        return int(reply) / 1000

    def give_back(self, windows: Sequence[Window], event: str) -> None:
        self._local.give_back(windows, event)
        if self._clock.monotonic() < self._resting_until:
            return
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for window in windows:
                pipeline.zrem(_ROOT + window.key, event)
            pipeline.execute()
        except (RedisError, OSError) as error:
            self._rest(error)

    def _rest(self, error: Exception) -> None:
        self._resting_until = self._clock.monotonic() + _REST_SECONDS
        _log.warning("limits_are_per_process", error=repr(error))
