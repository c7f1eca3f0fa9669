"""The HTTP server of the process: uvicorn, prepared for thousands of long responses.

A client that reads nothing or has vanished must not keep its connection. The kernel ends connections whose peer
acknowledges nothing or keeps its window shut (TCP_USER_TIMEOUT, tcp(7); keepalive while nothing is being sent). The
server ends those that it has closed and whose client reads the rest too slowly, because closing has no time limit, and
those that don't come to the end of a request's head, for which uvicorn has none either.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import struct
import time
from collections.abc import Sequence
from types import FrameType
from typing import Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.edge.connection import Connection, ConnectionState

# A closing connection whose client reads less than this between two checks is cut off.
_LEAST_BYTES = 16 * 1024
_KEEPALIVE_PROBES = 3
# Each event of a thousand streams leaves thousands of objects alive for a moment; with Python's 700 they grow old, and
# a full collection holds the event loop up for hundreds of milliseconds.
_COLLECTION_THRESHOLDS = (20_000, 10, 20)


class Hub(Protocol):
    def begin_shutdown(self) -> None: ...


class Server(uvicorn.Server):
    """Tells the streams to end before it waits for connections to drain.

    `silence_seconds`: see the module. `asking_seconds`: the time for a request's head; it may take up to twice as long.
    `draining_seconds`: how long a stopping server still answers requests on idle connections, so that none is dropped
    that was sent before its client could know; each answer closes its connection. `config` names Connection as `http`.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        hubs: Sequence[Hub],
        *,
        silence_seconds: float = 30.0,
        asking_seconds: float = 30.0,
        draining_seconds: float = 1.0,
        state: ConnectionState | None = None,
    ) -> None:
        super().__init__(config)
        self._state = self.server_state = state or ConnectionState()
        self._draining_seconds = draining_seconds
        self._hubs = hubs
        self._silence_seconds = silence_seconds
        self._asking_seconds = asking_seconds
        self._look_at = self._look_for_asking_at = 0.0
        # Bytes that wait in connections that were closing at the last look.
        self._closing: dict[HttpToolsProtocol, int] = {}
        # Connections that waited for a head at the last look, and the request before it.
        self._asking: dict[HttpToolsProtocol, RequestResponseCycle | None] = {}

    def stop_on_signals(self) -> None:
        """uvicorn raises a signal again for the handlers of before when it has stopped; by default those would end the
        process before it closes what it holds."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                limit_silence(listening, self._silence_seconds)

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._look_at:
            self._cut_off_slow_closing()
            self._look_at = time.monotonic() + self._silence_seconds
        if time.monotonic() >= self._look_for_asking_at:
            self._cut_off_slow_asking()
            self._look_for_asking_at = time.monotonic() + self._asking_seconds
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for hub in self._hubs:
            hub.begin_shutdown()
        await self._drain()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        self._state.is_draining = True
        connections = [connection for connection in self._state.connections if isinstance(connection, Connection)]
        for connection in connections:
            connection.begin_draining()
        until = time.monotonic() + self._draining_seconds
        # uvicorn waits for its connections in the same way, as nothing tells when one has closed.
        while not self.force_exit and time.monotonic() < until and any(one.is_idle for one in connections):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)

    def _http_connections(self) -> list[HttpToolsProtocol]:
        # `config` names Connection as `http`, and there are no WebSockets.
        return cast("list[HttpToolsProtocol]", list(self.server_state.connections))

    def _cut_off_slow_closing(self) -> None:
        closing: dict[HttpToolsProtocol, int] = {}
        for connection in self._http_connections():
            transport = connection.transport
            if not transport.is_closing():
                continue
            left = transport.get_write_buffer_size()
            before = self._closing.get(connection)
            if before is None or left <= before - _LEAST_BYTES:
                closing[connection] = left
            else:
                # A reset: the kernel drops what it holds for the client, too.
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                transport.abort()
        self._closing = closing

    def _cut_off_slow_asking(self) -> None:
        asking: dict[HttpToolsProtocol, RequestResponseCycle | None] = {}
        for connection in self._http_connections():
            request = cast("RequestResponseCycle | None", connection.cycle)
            # Between two requests, before the first byte of the next one, uvicorn's own timer runs.
            if connection.timeout_keep_alive_task is not None or not (request is None or request.response_complete):
                continue
            if connection in self._asking and self._asking[connection] is request:
                connection.transport.abort()
            else:
                asking[connection] = request
        self._asking = asking


class Socket(Protocol):
    """A socket, or asyncio's view of one."""

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...


def limit_silence(listening: Socket, seconds: float) -> None:
    """Connections that are accepted from now on inherit these options. Those that a system doesn't have are skipped."""
    whole = max(1, round(seconds))
    options = {
        "TCP_USER_TIMEOUT": round(seconds * 1000),
        "TCP_KEEPIDLE": whole,
        "TCP_KEEPINTVL": max(1, whole // _KEEPALIVE_PROBES),
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
    }
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def collect_rarely() -> None:
    """Exempts the objects that exist now from collections: they live as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
