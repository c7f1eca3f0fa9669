"""A TCP proxy that loses answers: now and then it drops one and cuts the connection it came on."""

from __future__ import annotations

import random
import select
import socket
import threading


class CuttingProxy:
    """Listens on a free `port` of loopback. `rate`: the share of answers lost, after the server has done the work."""

    def __init__(self, target_port: int, *, rate: float, seed: int) -> None:
        self._target_port = target_port
        self._rate = rate
        self._random = random.Random(seed)
        self._stopped = threading.Event()
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        serving: list[threading.Thread] = []
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            serving.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            serving[-1].start()
        for thread in serving:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self._target_port)) as server:
                self._forward(client, server)
        except OSError:
            return

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while not self._stopped.is_set():
            readable, _, _ = select.select([client, server], [], [], 0.1)
            for source in readable:
                data = source.recv(65_536)
                if not data:
                    return
                if source is server and self._random.random() < self._rate:
                    self.cuts += 1
                    return
                (client if source is server else server).sendall(data)
