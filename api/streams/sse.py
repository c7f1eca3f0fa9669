"""The response that sends a source's events as server-sent events.

Litestar's own ServerSentEvent is not used: it sends no heartbeats, and its generator is closed at garbage collection.
Here one task sends and one waits for the client to leave; when either ends, both end, at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, Unpack

import anyio
from litestar import Litestar
from litestar.datastructures.cookie import Cookie
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from api.connections import UserRequest
from api.responses import AsgiOptions
from api.streams.cursor_hub import HubClosing
from api.streams.frames import HEARTBEAT, ReconnectReason, reconnect_frame, retry_frame
from api.streams.log_watch import DeploymentGone
from api.streams.metrics import count_stream_begin, count_stream_end
from api.streams.stall_timeout import StallTimeout
from api.streams.stream_lease import StreamLease
from api.streams.timing import StreamTiming

MEDIA_TYPE = "text/event-stream"
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

# Why a stream ended: the reason that `reconnect` gives, the end of its source, or a client that left or reads nothing.
Ending = ReconnectReason | Literal["end", "left", "stalled"]


@dataclass(frozen=True, slots=True)
class EventChunk:
    """`payload` holds whole events (it may be empty). After `is_end` nothing follows, and the stream is complete."""

    payload: bytes
    is_end: bool = False


class Feed(Protocol):
    """One stream's position in its source; used by one task."""

    async def next(self, timeout_seconds: float) -> EventChunk | None:
        """The next chunk, waiting for it; None when the time is over. May be cancelled.

        Raises HubClosing when the process is about to stop, DeploymentGone when the deployment was deleted.
        """
        ...


class Source(Protocol):
    def open(self) -> AbstractAsyncContextManager[Feed]:
        """From the moment it is entered no event is missed. It may be left by cancellation."""
        ...


class EventStream(Response[object]):
    """Sends the source's events, up to its end. `lease` is held from before the headers until the stream has ended,
    whatever ends it; an error on entry becomes the answer."""

    def __init__(
        self, source: Source, timing: StreamTiming, lease: AbstractAsyncContextManager[StreamLease] | None = None
    ) -> None:
        super().__init__(content=None, media_type=MEDIA_TYPE, status_code=200, headers=dict(HEADERS))
        self._source = source
        self._timing = timing
        self._lease = lease

    def to_asgi_response(
        self, app: Litestar | None, request: UserRequest, **options: Unpack[AsgiOptions]
    ) -> ASGIResponse:
        return _StreamingResponse(
            self._source,
            self._timing,
            self._lease,
            headers={**(options.get("headers") or {}), **self.headers},
            cookies=[*self.cookies, *(options.get("cookies") or ())],
            is_head_response=options.get("is_head_response", False),
        )


class _StreamingResponse(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self,
        source: Source,
        timing: StreamTiming,
        lease: AbstractAsyncContextManager[StreamLease] | None,
        *,
        headers: dict[str, str],
        cookies: list[Cookie],
        is_head_response: bool,
    ) -> None:
        super().__init__(headers=headers, cookies=cookies, media_type=MEDIA_TYPE, is_head_response=is_head_response)
        self._source = source
        self._timing = timing
        self._acquire = lease
        self._lease: StreamLease | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._acquire is None:
            await super().__call__(scope, receive, send)
            return
        async with self._acquire as self._lease:
            await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        ending: Ending = "left"
        count_stream_begin()
        try:
            async with anyio.create_task_group() as group:

                async def watch_client() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(watch_client)
                ending = await self._stream(send)
                group.cancel_scope.cancel()
        finally:
            count_stream_end(ending)

    async def _stream(self, send: Send) -> Ending:
        with StallTimeout(send, self._timing.stall) as sender:
            await sender.send(retry_frame())
            ending = await self._send_while_permitted(sender)
            await sender.send(b"" if ending == "end" else reconnect_frame(ending), is_last=True)
            return ending
        return await self._send_away(send)

    async def _send_away(self, send: Send) -> Ending:
        """The source is released already. A client that resumes reading soon is told why; for one that doesn't, the
        response stays incomplete, and the server closes the connection."""
        with StallTimeout(send, self._timing.slow_notice) as sender:
            await sender.send(reconnect_frame("slow"), is_last=True)
            return "slow"
        return "stalled"

    async def _send_while_permitted(self, sender: StallTimeout) -> Literal["end"] | ReconnectReason:
        # A lost right also ends a wait for the client: a body that was not sent is asked for again, if it may be.
        with anyio.CancelScope() as permitted:
            if self._lease is not None:
                self._lease.on_revoked(permitted.cancel)
            try:
                async with self._source.open() as feed:
                    return await self._send_events(feed, sender)
            except HubClosing:
                return "shutdown"
            except DeploymentGone:
                return "revoked"
        return "revoked"

    async def _send_events(self, feed: Feed, sender: StallTimeout) -> Literal["end", "max_age"]:
        clock = asyncio.get_running_loop().time
        retire_at = clock() + self._timing.maximum_age * random.uniform(0.9, 1.0)  # noqa: S311  jitter
        heartbeat_at = clock() + self._timing.heartbeat
        while True:
            now = clock()
            if now >= retire_at:
                return "max_age"
            if now >= heartbeat_at:
                await sender.send(HEARTBEAT)
                heartbeat_at = now + self._timing.heartbeat
            chunk = await feed.next(min(heartbeat_at, retire_at) - now)
            if chunk is None:
                continue
            if chunk.payload:
                await sender.send(chunk.payload)
            if chunk.is_end:
                return "end"
