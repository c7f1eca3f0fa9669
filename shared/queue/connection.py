"""Connections to Redis (or Valkey)."""

from __future__ import annotations

import os
import socket
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

# A server whose machine died or is cut off is noticed after about 25 s, also by a subscriber, which only listens. What
# the system lacks is left out.
_PROBING = {
    getattr(socket, name): value
    for name, value in {
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 20_000,
    }.items()
    if hasattr(socket, name)
}


def connect_redis(
    url: str,
    *,
    connect_timeout_seconds: float = 2.0,
    timeout_seconds: float = 5.0,
    client_name: str = "cloudify",
) -> Redis:
    """A thread-safe client that connects on first use; replies are bytes. Close it with `close()`.

    redis-py's own retries are off: it repeats a command after a lost reply, without knowing whether the command may
    run twice. Callers repeat the commands that may. The pool detects and replaces a connection that broke while idle
    before it sends anything.
    """
    is_local = url.startswith("unix:")
    probing: dict[str, Any] = {} if is_local else {"socket_keepalive": True, "socket_keepalive_options": _PROBING}
    return Redis.from_url(
        url,
        socket_connect_timeout=connect_timeout_seconds,
        socket_timeout=timeout_seconds,
        **probing,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        client_name=client_name,
    )


class Commands:
    """Runs single commands over connections that it takes from a client's pool and keeps.

    A thread uses a connection for one command at a time; the client closes them all. Safe from any thread, and in a
    forked process. redis-py's own path (pool, retries, records for observability) costs twice as much as the rest of
    a command.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool
        self._process = os.getpid()
        self._kept: list[Any] = []

    def run(self, *arguments: str | bytes | float) -> Any:
        """Raises redis-py's errors. After a ConnectionError or TimeoutError the command may have run."""
        if self._process != os.getpid():
            self._process, self._kept = os.getpid(), []
        try:
            connection = self._kept.pop()
        except IndexError:
            connection = self._pool.get_connection()
        try:
            self._disconnect_if_closed(connection)
            connection.send_command(*arguments)
            reply = connection.read_response()
        except ResponseError:
            self._kept.append(connection)
            raise
        except BaseException:
            # The reply may still arrive, so the connection can't be used for another command.
            connection.disconnect()
            self._pool.release(connection)
            raise
        self._kept.append(connection)
        return reply

    def _disconnect_if_closed(self, connection: Any) -> None:
        """Closes a connection that the server has closed since its last use; the next command opens it again."""
        try:
            if connection.is_connected and connection.can_read():
                connection.disconnect()
        except (RedisError, OSError):
            connection.disconnect()
