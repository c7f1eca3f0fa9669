"""A deployment's log as a stream's source."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from api.edge.turns import Caller
from api.streams.hub import StreamHub
from api.streams.sse import EventChunk, Follower
from api.streams.watch import Watch


class LogSource:
    """The entries above `after`, then live ones, up to the end of the log. Its pages take the caller's turns."""

    def __init__(self, hub: StreamHub, deployment_id: str, after: int, caller: Caller) -> None:
        self._hub = hub
        self._deployment_id = deployment_id
        self._after = after
        self._caller = caller

    @asynccontextmanager
    async def follow(self) -> AsyncGenerator[Follower]:
        async with self._hub.watch(self._deployment_id, self._caller) as watch:
            yield LogFollower(watch, self._after)


class LogFollower:
    def __init__(self, watch: Watch, cursor: int) -> None:
        self._watch = watch
        self._cursor = cursor

    async def next(self, timeout_seconds: float) -> EventChunk | None:
        batch = await self._watch.next(self._cursor, timeout_seconds)
        if batch is None:
            return None
        self._cursor = batch.cursor
        return EventChunk(batch.payload, batch.is_end)
