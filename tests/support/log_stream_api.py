"""The API's log streams behind a real server in a thread, and clients that follow them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from httpx_sse import ServerSentEvent, connect_sse
from litestar import Router
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler

from api.authentication import Principal
from api.errors import handle_error
from api.middleware import Application
from api.routes.logs import LogController
from api.streams.log_hub import LogHub
from api.streams.queue_positions import AskPositions
from api.streams.stream_lease import StreamLeases
from api.streams.timing import StreamTiming
from schemas.logs import LogEntry
from shared.accounts.stream_rights import StreamRightsRepository
from shared.clock import SystemClock
from shared.db.database import Database
from shared.logs.base import Notifier
from shared.logs.listener import RedisNotificationListener
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.logs.stream_slots import RedisStreamSlots
from tests.support.log_rows import eventually, new_deployment
from tests.support.ports import free_ports


class HubServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, hub: LogHub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.begin_shutdown()
        await super().shutdown(sockets)


@dataclass
class Api:
    store: PostgresLogStore
    database: Database
    hub: LogHub
    url: str
    server: uvicorn.Server
    notifier: Notifier
    id: str = ""

    def append(self, *entries: LogEntry, deployment: str = "", notifier: Notifier | None = None) -> None:
        identifier = deployment or self.id
        with self.database.transaction() as connection:
            first, last = self.store.append(connection, identifier, entries, fence=None)
        (notifier or self.notifier).notify(identifier, first, last, entries)

    def path(self, deployment: str = "") -> str:
        return f"{self.url}/api/deployments/{deployment or self.id}/logs"

    def follow(self, deployment: str = "", **query: Any) -> Follower:
        return Follower(self.path(deployment) + "/stream", **query)


@dataclass
class Follower:
    """Reads a stream in a thread until it ends."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    events: list[ServerSentEvent] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    status: int = 0
    response_headers: httpx.Headers = field(default_factory=httpx.Headers)

    def __post_init__(self) -> None:
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with (
            httpx.Client(timeout=120) as client,
            connect_sse(client, "GET", self.url, headers=self.headers, params=self.params) as source,
        ):
            self.status, self.response_headers = source.response.status_code, source.response.headers
            if self.status != 200:
                source.response.read()
                return
            for event in source.iter_sse():
                self.events.append(event)
                if self._leave.is_set():
                    return

    def join(self) -> Follower:
        self._thread.join(120)
        assert not self._thread.is_alive(), "the stream has not ended"
        return self

    def leave_at_next_event(self) -> None:
        self._leave.set()

    @property
    def seqs(self) -> list[int]:
        """Every number that arrived, in order of arrival."""
        numbers: list[int] = []
        for event in list(self.events):
            data = json.loads(event.data) if event.data else {}
            match event.event:
                case "log":
                    numbers += [item["seq"] for item in data["lines"]]
                    assert int(event.id) == numbers[-1]
                case "gap":
                    numbers += range(data["from"], data["to"] + 1)
                case "status" if "queuePosition" in data:
                    """No entry of the log."""
                case "status" | "end":
                    numbers.append(data["seq"])
                    assert int(event.id) == data["seq"]
        return numbers

    @property
    def kinds(self) -> list[str]:
        return [event.event for event in self.events if event.data]


def let_everybody_in(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    connection.scope["user"] = Principal("user_any", "ada@example.com", "tok_any", frozenset(), False)
    connection.state.tenant_id = "ten_any"


@contextmanager
def running_api(
    database: Database,
    redis_url: str,
    *,
    positions: AskPositions | None = None,
    **timing: float,
) -> Iterator[Api]:
    store = PostgresLogStore(database)
    hub = LogHub(
        store, RedisNotificationListener(redis_url), StreamTiming(**({"poll": 0.1} | timing)), positions=positions
    )
    leases = StreamLeases(
        rights=StreamRightsRepository(database),
        slots=RedisStreamSlots(redis_url, limit=1000),
        clock=SystemClock(),
        check_seconds=3600,
    )
    application = Application(
        route_handlers=[Router("/api", route_handlers=[LogController])],
        guards=[let_everybody_in],
        lifespan=[leases.running],
        dependencies={
            "stream_leases": Provide(lambda: leases, sync_to_thread=False),
            "log_store": Provide(lambda: store, sync_to_thread=False),
            "log_hub": Provide(lambda: hub, sync_to_thread=False),
        },
        exception_handlers={Exception: handle_error},
        on_startup=[hub.start],
        on_shutdown=[hub.close],
        openapi_config=None,
    )
    [port] = free_ports(1)
    config = uvicorn.Config(
        application, port=port, ws="none", loop="uvloop", log_config=None, timeout_graceful_shutdown=5
    )
    server = HubServer(config, hub)
    thread = threading.Thread(target=server.run)
    thread.start()
    notifier = RedisNotifier.connect(redis_url)
    try:
        eventually(lambda: server.started)
        api = Api(store, database, hub, f"http://127.0.0.1:{port}", server, notifier)
        api.id = new_deployment(database)
        yield api
    finally:
        server.should_exit = True
        thread.join(120)
        notifier.close()
    assert not thread.is_alive(), "the server does not stop"
