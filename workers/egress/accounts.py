"""Who may use a proxy: one program, or many runs, each by a password of its own."""

from __future__ import annotations

import base64
import contextlib
import hmac
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

_REMEMBERED_HOSTS = 100
# A user of a shared proxy can't take it from the others.
_CONNECTIONS = 128


class Accounts(Protocol):
    """Safe from several threads."""

    def find(self, head: bytes) -> Account | None:
        """The account whose credentials the request's header has, or None."""
        ...


class Account:
    """One user of a proxy, with its open connections and the hosts that were refused to it.

    `credentials`: user:password, or empty for anybody. Implements Accounts, with itself. Safe from several threads.
    """

    def __init__(self, credentials: str = "", *, connections: int | None = None) -> None:
        self._credentials = base64.b64encode(credentials.encode()) if credentials else b""
        self._maximum = connections
        self._lock = threading.Lock()
        self._blocked: dict[str, None] = {}
        self._open: set[socket.socket] = set()
        self._is_closed = False

    def find(self, head: bytes) -> Account | None:
        given = _authorization(head)
        is_admitted = not self._credentials or hmac.compare_digest(given, b"Basic " + self._credentials)
        return self if is_admitted else None

    def open(self, connection: socket.socket) -> bool:
        """Counts a connection; False when there are too many, or the account is closed."""
        with self._lock:
            if self._is_closed or (self._maximum is not None and len(self._open) >= self._maximum):
                return False
            self._open.add(connection)
            return True

    def release(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def remember(self, host: str) -> None:
        with self._lock:
            if len(self._blocked) < _REMEMBERED_HOSTS:
                self._blocked[host[:255]] = None

    def blocked_hosts(self) -> tuple[str, ...]:
        """First seen first."""
        with self._lock:
            return tuple(self._blocked)

    def close(self) -> None:
        """Ends its connections and admits no more."""
        with self._lock:
            self._is_closed = True
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class RunAccounts:
    """The accounts of runs, by their names. Implements Accounts. `clock`: time.monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Name → account and the time at which it ends.
        self._runs: dict[str, tuple[Account, float]] = {}

    def find(self, head: bytes) -> Account | None:
        given = _authorization(head)
        try:
            credentials = base64.b64decode(given.removeprefix(b"Basic "), validate=True).decode()
        except ValueError:
            return None
        with self._lock:
            found = self._runs.get(credentials.partition(":")[0])
        if found is None or found[1] <= self._clock():
            return None
        return found[0].find(head)

    def register(self, run: str, password: str, seconds: float) -> None:
        """Replaces an earlier account of this name."""
        account = Account(f"{run}:{password}", connections=_CONNECTIONS)
        with self._lock:
            former = self._runs.pop(run, None)
            self._runs[run] = (account, self._clock() + seconds)
        if former is not None:
            former[0].close()

    def finish(self, run: str) -> tuple[str, ...]:
        """Ends the account; returns the hosts that were refused to it. May be repeated."""
        with self._lock:
            found = self._runs.pop(run, None)
        if found is None:
            return ()
        found[0].close()
        return found[0].blocked_hosts()

    def end_expired(self) -> None:
        now = self._clock()
        with self._lock:
            expired = [run for run, (_, ends_at) in self._runs.items() if ends_at <= now]
        for run in expired:
            self.finish(run)


def _authorization(head: bytes) -> bytes:
    """The value of the only header Proxy-Authorization, or empty."""
    lines = [line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line]
    given = [value.strip() for name, value in lines if name.lower() == b"proxy-authorization"]
    return given[0] if len(given) == 1 else b""
