"""A TCP relay that can be frozen: connections stay open, and nothing passes, as when a network loses packets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence


class FreezingRelay:
    """Listens on a free `port` of loopback. What arrives while it is frozen passes afterwards."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def move(self, target_port: int) -> None:
        """Ends all connections, and passes later ones on to another port."""
        self._target_port = target_port
        self._end(self._sockets)

    def close(self) -> None:
        self.thaw()
        self._end([self._listener, *self._sockets])
        self._thread.join()

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        with contextlib.suppress(OSError), self._listener:
            while True:
                client, _address = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:
                    client.close()
                    continue
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    threads.append(threading.Thread(target=self._pass_on, args=(source, target), daemon=True))
                    threads[-1].start()
        for thread in threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def _end(self, sockets: Sequence[socket.socket]) -> None:
        for end in list(sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flowing.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
