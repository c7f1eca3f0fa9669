"""The response that streams a deployment's log as server-sent events.

Litestar's own ServerSentEvent is not used: it sends no heartbeats, and its generator is closed at garbage collection.
Here one task sends and one waits for the client to leave; when either ends, both end, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
from litestar import Litestar, Request
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.datastructures.cookie import Cookie
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Send

from api.streams.frames import HEARTBEAT, ReconnectReason, reconnect_frame, retry_frame
from api.streams.hub import DeploymentGone, HubClosing, StreamHub, Watch

MEDIA_TYPE = "text/event-stream"
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class _Stalled(Exception):
    pass


class LogStream(Response[None]):
    """Sends the entries above `after`, then what comes, up to the end of the log."""

    def __init__(self, hub: StreamHub, deployment_id: str, after: int) -> None:
        super().__init__(content=None, media_type=MEDIA_TYPE, status_code=200, headers=dict(HEADERS))
        self._hub = hub
        self._deployment_id = deployment_id
        self._after = after

    def to_asgi_response(
        self,
        app: Litestar | None,
        request: Request[Any, Any, Any],
        *,
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: Iterable[Cookie] | None = None,
        encoded_headers: Iterable[tuple[bytes, bytes]] | None = None,
        headers: dict[str, str] | None = None,
        is_head_response: bool = False,
        media_type: Any = None,
        status_code: int | None = None,
        type_encoders: Any = None,
    ) -> ASGIResponse:
        return _StreamingResponse(
            self._hub,
            self._deployment_id,
            self._after,
            headers={**(headers or {}), **self.headers},
            cookies=[*self.cookies, *(cookies or ())],
            is_head_response=is_head_response,
        )


class _StreamingResponse(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self,
        hub: StreamHub,
        deployment_id: str,
        after: int,
        *,
        headers: dict[str, Any],
        cookies: list[Cookie],
        is_head_response: bool,
    ) -> None:
        super().__init__(headers=headers, cookies=cookies, media_type=MEDIA_TYPE, is_head_response=is_head_response)
        self._hub = hub
        self._deployment_id = deployment_id
        self._cursor = after
        self._timing = hub.timing

    async def send_body(self, send: Send, receive: Receive) -> None:
        async with anyio.create_task_group() as group:

            async def watch_client() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch_client)
            # After a stall the response stays incomplete, and the server closes the connection.
            with contextlib.suppress(_Stalled):
                await self._stream(send)
            group.cancel_scope.cancel()

    async def _stream(self, send: Send) -> None:
        await self._send(send, retry_frame())
        last = b""
        async with self._hub.watch(self._deployment_id) as watch:
            try:
                last = reconnect_frame(await self._follow(watch, send))
            except _EndReached:
                pass
            except HubClosing:
                last = reconnect_frame("shutdown")
            except DeploymentGone:
                last = reconnect_frame("revoked")
        await self._send(send, last, is_last=True)

    async def _follow(self, watch: Watch, send: Send) -> ReconnectReason:
        clock = asyncio.get_running_loop().time
        retire_at = clock() + self._timing.maximum_age * random.uniform(0.9, 1.0)  # noqa: S311  jitter
        heartbeat_at = clock() + self._timing.heartbeat
        while True:
            now = clock()
            if now >= retire_at:
                return "max_age"
            if now >= heartbeat_at:
                await self._send(send, HEARTBEAT)
                heartbeat_at = now + self._timing.heartbeat
            batch = await watch.next(self._cursor, min(heartbeat_at, retire_at) - now)
            if batch is None:
                continue
            if batch.payload:
                await self._send(send, batch.payload)
            self._cursor = batch.cursor
            if batch.is_end:
                raise _EndReached

    async def _send(self, send: Send, body: bytes, *, is_last: bool = False) -> None:
        event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": not is_last}
        with anyio.move_on_after(self._timing.stall) as scope:
            await send(event)
        if scope.cancelled_caught:
            raise _Stalled


class _EndReached(Exception):
    """The log's end was sent."""
