"""Asks the router's own web server which deployment it serves."""

from __future__ import annotations

import http.client
import threading
import time
from urllib.parse import urlsplit

from shared.errors import PlatformError

_PATH = "/.well-known/cloudify/deployment"
_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.02


class SiteProbe:
    """`url`: where the web server answers on this machine. `domain` completes a label to a host name. Safe from any
    thread. Keeps connections open; close them with `close`.
    """

    def __init__(self, url: str, domain: str, *, stall_seconds: float = 3.0) -> None:
        self._address = urlsplit(url).netloc
        self._domain = domain
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def verify(self, host: str, deployment_id: str) -> None:
        """Raises PlatformError unless the host serves this deployment within a few seconds."""
        deadline = time.monotonic() + self._stall_seconds
        while (problem := self._problem(host, deployment_id)) is not None:
            if time.monotonic() >= deadline:
                raise PlatformError(problem)
            time.sleep(_PAUSE_SECONDS)

    def _problem(self, host: str, deployment_id: str) -> str | None:
        try:
            status, text = self._ask(host)
        except (OSError, http.client.HTTPException) as error:
            return f"The web server of sites doesn't answer: {error!r}."
        if status == http.client.OK and text.strip() == deployment_id:
            return None
        return f"The web server of sites answers {status} for {host}, not this deployment."

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _ask(self, host: str) -> tuple[int, str]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", _PATH, headers={"Host": f"{host}.{self._domain}"})
            response = connection.getresponse()
            answer = response.status, response.read(1000).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            # The server closes connections that were idle for long; the next attempt opens another one.
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        return answer
