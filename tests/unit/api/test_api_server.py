"""The server cuts off closed connections whose client reads the rest too slowly, and clients that don't finish a
request's head, and no others."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import uvicorn

from api.edge.server import Server


class Request:
    def __init__(self, *, is_answered: bool) -> None:
        self.response_complete = is_answered


class Connection:
    """As a protocol of uvicorn's and its transport; `left` is what the client has still to take."""

    # The request that is being answered or was answered last, and the timer that runs between two.
    cycle: Request | None = None
    timeout_keep_alive_task: object | None = None

    def __init__(self, left: int, *, is_closing: bool) -> None:
        self.transport: Any = self
        self.left = left
        self.options: list[tuple[Any, ...]] = []
        self.is_aborted = False
        self._is_closing = is_closing

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return self.left

    def get_extra_info(self, _name: str) -> Any:
        return self

    def setsockopt(self, *arguments: Any) -> None:
        self.options.append(arguments)

    def abort(self) -> None:
        self.is_aborted = True


async def no_application(scope: Any, receive: Any, send: Any) -> None:
    """Nothing is asked for."""


def test_slow_readers_are_cut_off() -> None:
    server = Server(uvicorn.Config(no_application), [], silence_seconds=0.0)
    slow, steady = Connection(100_000, is_closing=True), Connection(100_000, is_closing=True)
    served = Connection(100_000, is_closing=False)
    server.server_state.connections |= {slow, steady, served}  # type: ignore[arg-type]

    def look() -> None:
        assert not asyncio.run(server.on_tick(1))

    look()
    assert not slow.is_aborted, "it may take the rest first"
    for _ in range(3):
        slow.left -= 100
        steady.left -= 20_000
        look()
    assert slow.is_aborted
    # A reset: the kernel discards what it still holds for the client.
    assert slow.options[0] == (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert not steady.is_aborted
    assert not served.is_aborted


def test_clients_that_send_their_request_too_slowly_are_cut_off() -> None:
    server = Server(uvicorn.Config(no_application), [], asking_seconds=0.0)
    first, next_one, served, between, busy = (Connection(0, is_closing=False) for _ in range(5))
    next_one.cycle = Request(is_answered=True)
    served.cycle = Request(is_answered=False)
    between.cycle, between.timeout_keep_alive_task = Request(is_answered=True), object()
    server.server_state.connections |= {first, next_one, served, between, busy}  # type: ignore[arg-type]
    for number in range(4):
        # Its head was never complete when the server looked, but it was another one's each time.
        busy.cycle = Request(is_answered=True)
        assert not asyncio.run(server.on_tick(1))
        assert first.is_aborted == next_one.is_aborted == (number > 0)
    assert not any(connection.is_aborted for connection in (served, between, busy))
