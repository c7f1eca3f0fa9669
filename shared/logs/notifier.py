"""Wakes watchers with a PUBLISH after each commit. A lost message costs a second, never a line."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from schemas.logs import LogEntry
from shared.clock import Clock, SystemClock
from shared.logs.account_events import tells_of_change

# Room for a batch of a build that prints a lot, 32 KiB of text. Watchers read larger batches from PostgreSQL.
_MAXIMUM_FRAME_BYTES = 64 * 1024
# Also notified when the status of any deployment changes.
ACCOUNTS_CHANNEL = "accounts:events"
_TIMEOUT_SECONDS = 0.5
# After a failed attempt the notifier pauses for so many times as long as the attempt took, at least and at most this.
_REST_FACTOR = 20.0
_REST_SECONDS = (0.5, 3.0)


class Notification(msgspec.Struct, frozen=True, array_like=True):
    """What is published. `entries` are numbered `first` to `last`; none when they are too large or not known."""

    first: int
    last: int
    entries: list[LogEntry] | None = None


def channel_of(deployment_id: str) -> str:
    return f"deployment:{deployment_id}:events"


def encode_notification(first: int, last: int, entries: Sequence[LogEntry]) -> bytes:
    """An empty range (nothing was changed) becomes a bare mention of the head: its watchers may have missed it."""
    if first <= last and len(entries) == last - first + 1:
        encoded = msgspec.msgpack.encode(Notification(first, last, list(entries)))
        if len(encoded) <= _MAXIMUM_FRAME_BYTES:
            return encoded
    return msgspec.msgpack.encode(Notification(min(first, last), last))


def decode_notification(data: bytes) -> Notification | None:
    """None for what isn't ours."""
    try:
        return msgspec.msgpack.decode(data, type=Notification)
    except msgspec.DecodeError:
        return None


class RedisNotifier:
    """The Notifier on Redis pub/sub. Safe from any thread, never raises.

    The client should have short timeouts and no retries, like the one that `connect` makes. While Redis is down, calls
    return at once except for an occasional attempt, so that builds aren't slowed.
    """

    def __init__(self, client: redis.Redis, *, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._resting_until = 0.0

    @classmethod
    def connect(cls, redis_url: str, *, clock: Clock | None = None) -> RedisNotifier:
        """With a client of its own; connects at the first notification."""
        client = redis.Redis.from_url(
            redis_url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(client, clock=clock)

    def notify(self, deployment_id: str, first: int, last: int, entries: Sequence[LogEntry]) -> None:
        if last < 1:
            return
        started = self._clock.monotonic()
        with self._lock:
            if started < self._resting_until:
                return
        try:
            notification = encode_notification(first, last, entries)
            if tells_of_change(entries):
                with self._client.pipeline(transaction=False) as pipeline:
                    pipeline.publish(channel_of(deployment_id), notification)
                    pipeline.publish(ACCOUNTS_CHANNEL, b"")
                    pipeline.execute()
            else:
                self._client.publish(channel_of(deployment_id), notification)
        except (redis.RedisError, OSError):
            now = self._clock.monotonic()
            shortest, longest = _REST_SECONDS
            rest = min(longest, max(shortest, _REST_FACTOR * (now - started)))
            with self._lock:
                self._resting_until = now + rest

    def close(self) -> None:
        self._client.close()
