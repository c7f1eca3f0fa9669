"""Relays bytes between two connections, both ways."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

_IDLE_SECONDS = 300.0


class Tunnel:
    """Relays both directions, in a thread each, until both have ended or nothing was sent either way for 300 s.

    `on_sent` and `on_received` are told the size of each piece that the client sent or received, from these threads.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        on_sent: Callable[[int], None] = lambda _: None,
        on_received: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._server = server
        self._on_sent = on_sent
        self._on_received = on_received
        self._moved_at = time.monotonic()

    def run(self) -> None:
        back = threading.Thread(target=self._copy, args=(self._server, self._client, self._on_received), daemon=True)
        back.start()
        self._copy(self._client, self._server, self._on_sent)
        back.join()

    def _copy(self, source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
        source.settimeout(_IDLE_SECONDS)
        try:
            while data := self._receive(source):
                # Before the piece is sent: a program that has it all may end at once.
                count(len(data))
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
