"""Connections to Redis (or Valkey)."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect_redis(
    url: str,
    *,
    connect_timeout_seconds: float = 2.0,
    timeout_seconds: float = 5.0,
    client_name: str = "cloudify",
) -> Redis:
    """A thread-safe client that connects on first use; replies are bytes. Close it with `close()`.

    redis-py's own retries are off: it sends a command again after a reply was lost, and can't know which command may
    be run twice. Those that may are repeated by their callers. A connection that broke while it was idle is
    noticed and replaced by the pool before anything is sent.
    """
    return Redis.from_url(
        url,
        socket_connect_timeout=connect_timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        client_name=client_name,
    )
