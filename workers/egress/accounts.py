"""Who may use a proxy: one program, or many runs, each by a password of its own."""

from __future__ import annotations

import base64
import contextlib
import hmac
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from workers.egress.run_credentials import LONGEST_SECONDS, run_of

_REMEMBERED_HOSTS = 100
# A user of a shared proxy can't take it from the others.
_CONNECTIONS = 128
# Counts for the hosts beyond _REMEMBERED_HOSTS.
_OTHER_HOSTS = "other hosts"


@dataclass(frozen=True, slots=True)
class ReachedHost:
    """A host, with its port if that is unusual, and the bytes of all connections to it."""

    host: str
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a program did through the proxy: hosts that were refused to it and those that it reached, first seen
    first."""

    blocked_hosts: tuple[str, ...] = ()
    reached_hosts: tuple[ReachedHost, ...] = ()


class Accounts(Protocol):
    """Safe from several threads."""

    def find(self, head: bytes) -> Account | None:
        """The account whose credentials the request's header has, or None."""
        ...


class Account:
    """One user of a proxy, with its open connections and its traffic.

    `credentials`: user:password, or empty for anybody. Implements Accounts, with itself. Safe from several threads.
    """

    def __init__(self, credentials: str = "", *, connections: int | None = None) -> None:
        self._credentials = base64.b64encode(credentials.encode()) if credentials else b""
        self._maximum = connections
        self._lock = threading.Lock()
        self._blocked: dict[str, None] = {}
        # Host → bytes sent, bytes received.
        self._reached: dict[str, list[int]] = {}
        self._open: set[socket.socket] = set()
        self._is_closed = False

    def find(self, head: bytes) -> Account | None:
        given = _authorization(head)
        is_admitted = not self._credentials or hmac.compare_digest(given, b"Basic " + self._credentials)
        return self if is_admitted else None

    @property
    def is_closed(self) -> bool:
        return self._is_closed

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

    def refuse(self, host: str) -> None:
        """Remembers a host that was refused."""
        with self._lock:
            if len(self._blocked) < _REMEMBERED_HOSTS:
                self._blocked[host[:255]] = None

    def count(self, host: str, *, sent: int = 0, received: int = 0) -> None:
        """Adds bytes to those of a host that was reached."""
        with self._lock:
            name = host[:255]
            if name not in self._reached and len(self._reached) >= _REMEMBERED_HOSTS:
                name = _OTHER_HOSTS
            counts = self._reached.setdefault(name, [0, 0])
            counts[0] += sent
            counts[1] += received

    def traffic(self) -> Traffic:
        with self._lock:
            reached = (ReachedHost(host, sent, received) for host, (sent, received) in self._reached.items())
            return Traffic(tuple(self._blocked), tuple(reached))

    def close(self) -> None:
        """Ends its connections and admits no more."""
        with self._lock:
            self._is_closed = True
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class RunAccounts:
    """The accounts of an installation's runs. Implements Accounts. `clock`: time.time.

    Nothing has to be registered: credentials prove themselves (run_credentials), so that each gateway of an
    installation admits every run, a restarted one as well. It only keeps what it has refused, and which runs are over.
    """

    def __init__(self, token: bytes, clock: Callable[[], float] = time.time) -> None:
        self._token = token
        self._clock = clock
        self._lock = threading.Lock()
        # Run → its account, and the time at which nobody has to remember it any more.
        self._runs: dict[str, tuple[Account, float]] = {}

    def find(self, head: bytes) -> Account | None:
        given = _authorization(head)
        try:
            user, _, password = base64.b64decode(given.removeprefix(b"Basic "), validate=True).decode().partition(":")
        except ValueError:
            return None
        run, ends_at = run_of(self._token, user, password) or ("", 0)
        now = self._clock()
        if not now < ends_at <= now + LONGEST_SECONDS:
            return None
        with self._lock:
            account, _ = self._runs.setdefault(run, (Account(connections=_CONNECTIONS), ends_at))
        return None if account.is_closed else account

    def finish(self, run: str) -> Traffic:
        """Ends the account; returns its traffic. May be repeated."""
        with self._lock:
            account, _ = self._runs.get(run) or (Account(), 0)
            # Its credentials may be valid for as long as any.
            self._runs[run] = (account, self._clock() + LONGEST_SECONDS)
        account.close()
        return account.traffic()

    def forget_expired(self) -> None:
        now = self._clock()
        with self._lock:
            expired = [(run, account) for run, (account, until) in self._runs.items() if until <= now]
            for run, _ in expired:
                del self._runs[run]
        for _, account in expired:
            account.close()


def _authorization(head: bytes) -> bytes:
    """The value of the only header Proxy-Authorization, or empty."""
    lines = [line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line]
    given = [value.strip() for name, value in lines if name.lower() == b"proxy-authorization"]
    return given[0] if len(given) == 1 else b""
