"""Connections to Redis (or Valkey)."""

from __future__ import annotations

import os
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
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


class Commands:
    """Runs single commands over connections that it takes from a client's pool and keeps: a thread takes one for the
    time of a command. They end with the client. Safe from any thread, and in a forked process.

    Redis-py's own way (pool, retries, records for observability) costs twice as much as the rest of a command.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool
        self._process = os.getpid()
        self._kept: list[Any] = []

    def run(self, *arguments: str | bytes | float) -> Any:
        """Raises what redis-py raises; after a ConnectionError or TimeoutError the command may have been run."""
        if self._process != os.getpid():
            self._process, self._kept = os.getpid(), []
        try:
            connection = self._kept.pop()
        except IndexError:
            connection = self._pool.get_connection()
        try:
            self._mend(connection)
            connection.send_command(*arguments)
            reply = connection.read_response()
        except ResponseError:
            self._kept.append(connection)
            raise
        except BaseException:
            # The answer may still come: the connection can't be used as it is.
            connection.disconnect()
            self._pool.release(connection)
            raise
        self._kept.append(connection)
        return reply

    def _mend(self, connection: Any) -> None:
        """Connects again where the other side has closed the connection since it was last used."""
        try:
            if connection.is_connected and connection.can_read():
                connection.disconnect()
        except (RedisError, OSError):
            connection.disconnect()
