"""A company's HTTP proxy for the tests: it tunnels to fixed places and remembers what it was asked for."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class RunningProxy:
    """`asked` and `heads`: target and header of each request. `refusals`: statuses that the next ones are answered."""

    port: int
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)


@contextlib.contextmanager
def running_proxy(places: Mapping[str, tuple[str, int]], credentials: str) -> Generator[RunningProxy]:
    """`places`: host:port as asked for → address and port; others get 502. `credentials`: user:password or empty."""
    proxy = RunningProxy(0)
    expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            proxy.asked.append(self.path)
            proxy.heads.append(str(self.headers))
            refusal = proxy.refusals.pop(0) if proxy.refusals else 0
            if refusal:
                self.send_error(refusal)
            elif self.headers["Proxy-Authorization"] != expected:
                self.send_error(407)
            elif self.path not in places:
                self.send_error(502)
            else:
                with socket.create_connection(places[self.path]) as server:
                    self.send_response(200)
                    self.end_headers()
                    self._tunnel(server)
            self.close_connection = True

        def _tunnel(self, server: socket.socket) -> None:
            back = threading.Thread(target=_copy, args=(server, self.connection))
            back.start()
            _copy(self.connection, server)
            back.join()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing: what was asked for is in `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
