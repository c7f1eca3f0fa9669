"""A company's HTTP proxy, through which installs and clones reach the internet."""

from __future__ import annotations

import base64
import re
import socket
import time
from urllib.parse import unquote, urlsplit

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_ANSWER_BYTES = 32 * 1024


class UpstreamFailure(Exception):
    """The message is one line for the person whose install it was; it never holds the proxy's credentials.

    `status` is the proxy's HTTP status, None if its answer was malformed or too late.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed."""
        return self.status is None or self.status >= 500


class UpstreamAway(UpstreamFailure):
    """The proxy itself can't be reached."""


class UpstreamProxy:
    """`url`: http://[user:password@]host:port. Safe from several threads."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for a URL without host or port."""
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise ValueError("an upstream proxy needs a host and a port")
        self._address = (parts.hostname, parts.port)
        self._authorization = b""
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._authorization = b"Proxy-Authorization: Basic " + base64.b64encode(credentials) + b"\r\n"

    @classmethod
    def of(cls, url: str) -> UpstreamProxy | None:
        """None for an empty URL."""
        return cls(url) if url else None

    def connect(self, host: str, port: int) -> tuple[socket.socket, bytes]:
        """A tunnel to the host, and data that came through it already. Raises UpstreamFailure."""
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            encoded = target.encode("ascii")
        except UnicodeEncodeError as error:
            raise UpstreamFailure(f"{host[:100]} is not a name that a proxy takes") from error
        try:
            connection = socket.create_connection(self._address, timeout=_CONNECT_SECONDS)
        except OSError as error:
            raise UpstreamAway("the upstream proxy of this installation does not answer") from error
        try:
            connection.sendall(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (encoded, encoded, self._authorization))
            early = _read_answer(connection, target)
        except OSError as error:
            connection.close()
            raise UpstreamFailure(f"the upstream proxy broke off at {target}") from error
        except UpstreamFailure:
            connection.close()
            raise
        return connection, early


def _read_answer(connection: socket.socket, target: str) -> bytes:
    """The data after the header of an answer with status 2xx. Raises UpstreamFailure, OSError."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    received = b""
    while b"\r\n\r\n" not in received:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or len(received) > _ANSWER_BYTES:
            raise UpstreamFailure(f"the upstream proxy doesn't answer for {target}")
        connection.settimeout(remaining)
        data = connection.recv(8192)
        if not data:
            raise UpstreamFailure(f"the upstream proxy broke off at {target}")
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    words = head.split(b"\r\n")[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].startswith(b"2"):
        answered = words[1][:3].decode("ascii", "replace") if len(words) > 1 else "nothing of HTTP"
        status = int(answered) if re.fullmatch("[3-5][0-9][0-9]", answered) else None
        raise UpstreamFailure(f"the upstream proxy refuses {target}: it answers {answered}", status=status)
    # The tunnel has its own deadlines.
    connection.settimeout(None)
    return rest
