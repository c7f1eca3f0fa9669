"""One stream's view of a deployment's log."""

from __future__ import annotations

from typing import Protocol

from api.edge.turns import Caller
from api.streams.cursor_hub import CursorWatch, WatchedHub
from api.streams.log_channel import Batch, LogChannel


class DeploymentGone(Exception):
    """The deployment was deleted while it was watched."""


class LogPages(WatchedHub, Protocol):
    """The part of the LogHub that a LogWatch needs."""

    async def page(self, channel: LogChannel, cursor: int, caller: Caller, seconds: float) -> Batch | None:
        """A page of the store as events; None when there are none, or the time is over. Raises Unavailable."""
        ...


class LogWatch(CursorWatch[LogPages, int, Batch]):
    """The cursor is the number of the stream's last entry; `next` also raises DeploymentGone."""

    def __init__(self, hub: LogPages, channel: LogChannel, caller: Caller) -> None:
        super().__init__(hub, channel.signal, caller)
        self._channel = channel
        self._position = b""

    async def _find(self, cursor: int, seconds: float) -> Batch | None:
        channel = self._channel
        if channel.is_gone:
            raise DeploymentGone
        if channel.last is None:
            return None
        if cursor < channel.last:
            return channel.batch(cursor) or await self._hub.page(channel, cursor, self._caller, seconds)
        if channel.is_read_to_the_end(cursor):
            return Batch(b"", cursor, is_end=True)
        if channel.position != self._position:
            self._position = channel.position
            # The deployment's next status replaces a position that was shown.
            return Batch(self._position, cursor, is_end=False) if self._position else None
        return None
