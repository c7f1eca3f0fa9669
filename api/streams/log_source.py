"""A deployment's log as a stream's source."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from api.edge.turns import Caller
from api.streams.log_hub import LogHub
from api.streams.log_watch import LogWatch
from api.streams.sse import EventChunk, Feed


class LogSource:
    """The entries above `after`, then live ones, up to the end of the log. Its pages take the caller's turns."""

    def __init__(self, hub: LogHub, deployment_id: str, after: int, caller: Caller) -> None:
        self._hub = hub
        self._deployment_id = deployment_id
        self._after = after
        self._caller = caller

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Feed]:
        async with self._hub.watch(self._deployment_id, self._caller) as watch:
            yield LogFeed(watch, self._after)


class LogFeed:
    def __init__(self, watch: LogWatch, cursor: int) -> None:
        self._watch = watch
        self._cursor = cursor

    async def next(self, timeout_seconds: float) -> EventChunk | None:
        batch = await self._watch.next(self._cursor, timeout_seconds)
        if batch is None:
            return None
        self._cursor = batch.cursor
        return EventChunk(batch.payload, batch.is_end)
