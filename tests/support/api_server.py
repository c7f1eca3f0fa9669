"""The API's server in a thread, with a small application inside the API's middleware, and raw clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import uvicorn
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.params import JSONBody

from api.bodies import MAXIMUM_BODY_BYTES, JsonRequest
from api.edge.body_budget import BodyBudget
from api.edge.connection import Connection, ConnectionState
from api.edge.lanes import Lanes
from api.edge.places import Places
from api.edge.request_body import BodyPace
from api.edge.server import Server
from api.errors import handle_error
from api.middleware import Application
from shared.hosts import Hosts
from shared.network.client_addresses import TrustedProxies
from tests.support.ports import free_ports

TIMEOUT_SECONDS = 120.0


class Text(msgspec.Struct):
    text: str = ""


class RunningServer:
    """`entered` is set when a request for /slow has begun; it is answered when `released` is set."""

    def __init__(self, port: int, server: Server, entered: threading.Event, released: threading.Event) -> None:
        self.port = port
        self.server = server
        self.entered = entered
        self.released = released
        self._clients: list[RawClient] = []

    def connect(self) -> RawClient:
        """Closed with the server at the latest."""
        self._clients.append(RawClient(self.port))
        return self._clients[-1]

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def stop(self) -> None:
        """Returns at once."""
        self.server.should_exit = True


class RawClient:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self._buffer = b""

    def send(self, data: bytes) -> RawClient:
        self.socket.sendall(data)
        return self

    def get(self, path: str = "/") -> tuple[int, dict[str, str], bytes]:
        return self.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()).answer()

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body; for answers that have a Content-Length."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self._buffer = rest
        length = int(headers.get("content-length", 0))
        while len(self._buffer) < length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(first.split(" ")[1]), headers, body

    def has_ended(self) -> bool:
        """Waits for the server's end of the connection; False when something else comes."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {self._buffer!r}")
        self._buffer += data


@contextmanager
def running_server(
    *,
    hosts: Sequence[str] = (),
    pace: BodyPace | None = None,
    budget: BodyBudget | None = None,
    keep_alive_seconds: float = TIMEOUT_SECONDS,
    places: Places | None = None,
    draining_seconds: float = 1.0,
    trusted_proxies: Sequence[str] = (),
) -> Generator[RunningServer]:
    entered, released = threading.Event(), threading.Event()

    @get("/", sync_to_thread=False)
    def root() -> str:
        return "root"

    @get("/client", sync_to_thread=False)
    def client(request: Request[Any, Any, Any]) -> str:
        return request.client.host if request.client else ""

    @get("/slow", sync_to_thread=True)
    def slow() -> str:
        entered.set()
        assert released.wait(TIMEOUT_SECONDS)
        return "slow"

    @post("/text", status_code=200, sync_to_thread=False)
    def text(data: JSONBody[Text]) -> str:
        return str(len(data.text))

    @post("/unread", status_code=200, sync_to_thread=False)
    def unread(request: Request[Any, Any, Any]) -> str:
        return "unread"

    application = Application(
        route_handlers=[root, client, slow, text, unread],
        exception_handlers={Exception: handle_error},
        request_class=JsonRequest,
        request_max_body_size=MAXIMUM_BODY_BYTES,
        state=State(
            {
                "hosts": Hosts(hosts),
                "body_pace": pace or BodyPace(),
                "body_budget": budget or BodyBudget(),
                "lanes": Lanes(),
                "trusted_proxies": TrustedProxies(trusted_proxies),
            }
        ),
        openapi_config=None,
        logging_config=None,
    )
    [port] = free_ports(1)
    config = uvicorn.Config(
        application,
        port=port,
        http=Connection,
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive_seconds,  # pyright: ignore[reportArgumentType]
        timeout_graceful_shutdown=60,
    )
    server = Server(config, [], draining_seconds=draining_seconds, state=ConnectionState(places))
    thread = threading.Thread(target=server.run)
    thread.start()
    running = RunningServer(port, server, entered, released)
    pause = threading.Event()
    try:
        while not server.started and thread.is_alive():
            pause.wait(0.02)
        yield running
    finally:
        released.set()
        running.close_clients()
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive(), "the server does not stop"
