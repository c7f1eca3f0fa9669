"""One stream's view of a deployment's channel."""

from __future__ import annotations

import asyncio
from typing import Protocol

from api.edge.turns import Caller
from api.streams.channel import Batch, Channel
from api.streams.timing import StreamTiming
from shared.errors import Unavailable


class DeploymentGone(Exception):
    """The deployment was deleted while it was watched."""


class HubClosing(Exception):
    """The process is about to stop; the client should come back to another one."""


class Pages(Protocol):
    """The part of the StreamHub that a Watch needs."""

    timing: StreamTiming

    @property
    def is_closing(self) -> bool: ...

    async def page(self, channel: Channel, cursor: int, caller: Caller, seconds: float) -> Batch | None:
        """A page of the store as events; None when there are none, or the time is over. Raises Unavailable."""
        ...


class Watch:
    """Used by one task."""

    def __init__(self, hub: Pages, channel: Channel, caller: Caller) -> None:
        self._hub = hub
        self._channel = channel
        self._caller = caller
        self._position = b""

    async def next(self, cursor: int, timeout_seconds: float) -> Batch | None:
        """The events after `cursor`, waiting for them; None when the time is over.

        Raises HubClosing and DeploymentGone. While PostgreSQL is down it waits, too.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            if self._hub.is_closing:
                raise HubClosing
            if self._channel.is_gone:
                raise DeploymentGone
            changes = self._channel.changes
            pause = timeout_seconds
            try:
                batch = await self._batch(cursor, deadline - clock())
            except Unavailable:
                batch, pause = None, self._hub.timing.poll
            if batch is not None:
                return batch
            left = deadline - clock()
            if left <= 0:
                return None
            await self._channel.wait(changes, min(pause, left))

    async def _batch(self, cursor: int, seconds: float) -> Batch | None:
        channel = self._channel
        if channel.last is None:
            return None
        if cursor < channel.last:
            return channel.batch(cursor) or await self._hub.page(channel, cursor, self._caller, seconds)
        if channel.is_read_to_the_end(cursor):
            return Batch(b"", cursor, is_end=True)
        if channel.position != self._position:
            self._position = channel.position
            # What was shown is over when the deployment's next status comes: that says so by itself.
            return Batch(self._position, cursor, is_end=False) if self._position else None
        return None
