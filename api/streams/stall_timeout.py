"""Bounds how long a stream waits for its client."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import anyio
from litestar.types import HTTPResponseBodyEvent, Send


class StallTimeout:
    """Sends bodies. The context is left, silently, when a send has waited for the client for `seconds`.

    One timer serves all sends: a timeout around each would cost as much as the send.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._scope = anyio.CancelScope()
        self._clock = asyncio.get_running_loop().time
        self._began_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._look_again_at(self._clock() + self._seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        return bool(self._scope.__exit__(kind, error, traceback))

    async def send(self, body: bytes, *, is_last: bool = False) -> None:
        event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": not is_last}
        self._began_at = self._clock()
        try:
            await self._send(event)
        finally:
            self._began_at = None

    def _look(self) -> None:
        now = self._clock()
        if self._began_at is not None and now - self._began_at >= self._seconds:
            self._scope.cancel()
        else:
            self._look_again_at((now if self._began_at is None else self._began_at) + self._seconds)

    def _look_again_at(self, moment: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(moment, self._look)
