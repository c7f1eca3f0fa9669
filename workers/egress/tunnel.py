"""Relays bytes between two connections, both ways."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_IDLE_SECONDS = 300.0


class Tunnel:
    """Relays both directions, in a thread each, until both have ended or nothing was sent either way for 300 s."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._moved_at = time.monotonic()

    def run(self) -> None:
        back = threading.Thread(target=self._copy, args=(self._server, self._client), daemon=True)
        back.start()
        self._copy(self._client, self._server)
        back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        source.settimeout(_IDLE_SECONDS)
        try:
            while data := self._receive(source):
                target.sendall(data)
        except OSError:
            # One side is gone, so the other direction ends as well.
            with contextlib.suppress(OSError):
                source.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _receive(self, source: socket.socket) -> bytes:
        while True:
            try:
                data = source.recv(65536)
            except TimeoutError:
                if time.monotonic() - self._moved_at >= _IDLE_SECONDS:
                    raise
                continue
            self._moved_at = time.monotonic()
            return data
