"""The live logs of deployments for any number of streams of one process.

One Redis connection wakes the hub; each watched deployment is read from PostgreSQL once, however many streams watch it.
Nothing depends on a Redis message arriving: entries that a message skips are read from the store, every acknowledged
(re)subscription is followed by a read of the store, and heads are compared every 15 s, or every second while Redis is
down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from api.edge.turns import Caller
from api.streams.cursor_hub import Connected, CursorHub
from api.streams.log_channel import BATCH_BYTES, BATCH_ENTRIES, RING_ENTRIES, Batch, LogChannel, page_batch
from api.streams.log_watch import LogWatch
from api.streams.metrics import observe_lag
from api.streams.queue_positions import AskPositions, show_positions
from api.streams.timing import StreamTiming
from shared.errors import Unavailable
from shared.logs.base import LogHead, NumberedEntry
from shared.logs.listener import NotificationHandler
from shared.logs.notifier import Notification

_logger = logging.getLogger(__name__)

# Entries before the head that a new channel loads: streams that reconnect after a restart find their place there.
_PRELOADED_ENTRIES = 200
_READERS = 4


class LogReader(Protocol):
    """The part of PostgresLogStore that the hub needs. Called from threads."""

    def read(self, deployment_id: str, *, after: int, limit: int, maximum_bytes: int = ...) -> list[NumberedEntry]: ...

    def head(self, deployment_id: str) -> LogHead: ...

    def heads(self, deployment_ids: Sequence[str]) -> dict[str, LogHead]: ...


class NotificationListener(Connected, Protocol):
    """See RedisNotificationListener."""

    def watch(self, deployment_id: str) -> None: ...

    def unwatch(self, deployment_id: str) -> None: ...

    async def run(self, handler: NotificationHandler) -> None: ...


class LogHub(CursorHub[LogChannel, Batch | None]):
    def __init__(
        self,
        store: LogReader,
        listener: NotificationListener,
        timing: StreamTiming | None = None,
        *,
        positions: AskPositions | None = None,
    ) -> None:
        failure = "The log of a watched deployment could not be read."
        super().__init__(lane="log_pages", readers=_READERS, listener=listener, timing=timing, failure=failure)
        self._store = store
        self._positions = positions
        self._listener = listener

    def _spawn_tasks(self) -> None:
        self._tasks.spawn(self._listener.run(self))
        self._tasks.spawn(self._compare_heads())
        if self._positions is not None:
            self._tasks.spawn(show_positions(self._channels.values, self._positions, self.timing.position))

    @asynccontextmanager
    async def watch(self, deployment_id: str, caller: Caller) -> AsyncGenerator[LogWatch]:
        """The channel is set up when this returns: no later entry is missed. `caller`: takes the turns for pages of the
        store.
        """
        channel = self._channels.get(deployment_id)
        if channel is None:
            channel = self._channels[deployment_id] = LogChannel(deployment_id)
            self._listener.watch(deployment_id)
        channel.watchers += 1
        try:
            if self._listener.is_connected:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.timing.acknowledge):
                        await channel.acknowledged.wait()
            if channel.is_behind:
                self._refresh(channel)
            yield LogWatch(self, channel, caller)
        finally:
            channel.watchers -= 1
            if channel.watchers == 0:
                del self._channels[deployment_id]
                self._listener.unwatch(deployment_id)

    @property
    def stream_count(self) -> int:
        return sum(channel.watchers for channel in self._channels.values())

    # What the listener calls.

    def subscribed(self, deployment_id: str) -> None:
        if channel := self._channels.get(deployment_id):
            channel.acknowledged.set()
            self._refresh(channel)

    def notified(self, deployment_id: str, notification: Notification | None) -> None:
        channel = self._channels.get(deployment_id)
        if channel is None:
            return
        if notification is None:
            self._refresh(channel)
            return
        channel.mentioned = max(channel.mentioned, notification.last)
        if notification.entries and channel.last is not None and notification.first == channel.last + 1:
            _extend(
                channel,
                [NumberedEntry(seq, entry) for seq, entry in enumerate(notification.entries, start=notification.first)],
            )
        elif channel.is_behind:
            self._refresh(channel)

    # What a LogWatch calls.

    async def page(self, channel: LogChannel, cursor: int, caller: Caller, seconds: float) -> Batch | None:
        """A page of the store as events; None when there are none, or the time is over. Raises Unavailable."""
        # From before the read: entries up to it that the read doesn't find have been removed.
        read = partial(self._read_page, channel.deployment_id, cursor, channel.last or 0)
        return await self._pages.read(caller, (channel.deployment_id, cursor), read, seconds)

    def _read_page(self, deployment_id: str, cursor: int, last: int) -> Batch | None:
        entries = self._store.read(deployment_id, after=cursor, limit=BATCH_ENTRIES, maximum_bytes=BATCH_BYTES)
        return page_batch(cursor, entries, last)

    def _refresh(self, channel: LogChannel) -> None:
        """Brings the ring up to date, and again if that is under way."""
        channel.is_refresh_due = True
        if channel.refresh is None or channel.refresh.done():
            channel.refresh = self._tasks.spawn(self._bring_up_to_date(channel))

    async def _bring_up_to_date(self, channel: LogChannel) -> None:
        while channel.is_refresh_due and channel.watchers:
            channel.is_refresh_due = False
            try:
                if channel.last is None:
                    await self._load(channel)
                if channel.is_closed and not channel.is_behind:
                    return
                read = partial(self._store.read, channel.deployment_id, after=channel.last or 0, limit=RING_ENTRIES)
                entries = await self._read(read)
            except Unavailable:
                channel.is_refresh_due = True
                await asyncio.sleep(self.timing.poll)
                continue
            _extend(channel, entries)
            channel.is_refresh_due = channel.is_refresh_due or bool(entries and channel.is_behind)

    async def _load(self, channel: LogChannel) -> None:
        head = await self._read(partial(self._store.head, channel.deployment_id))
        if head.is_closed:
            # Its entries may be in the object store, which only reads in turn may wait for.
            channel.load(head, [])
            return
        after = max(0, head.last_seq - _PRELOADED_ENTRIES)
        read = partial(self._store.read, channel.deployment_id, after=after, limit=_PRELOADED_ENTRIES)
        channel.load(head, await self._read(read))

    async def _compare_heads(self) -> None:
        while True:
            await asyncio.sleep(self.timing.poll)
            if not self._schedule.is_due():
                continue
            self._schedule.note_comparison()
            try:
                await self._compare_all()
            except Unavailable:
                continue
            except Exception:
                # After any error: a lost message must not go unnoticed for good.
                _logger.exception("The heads of watched logs can't be compared.")

    async def _compare_all(self) -> None:
        known = [(channel, channel.last) for channel in self._channels.values()]
        if not known:
            return
        identifiers = [channel.deployment_id for channel, _ in known]
        heads = await self._read(partial(self._store.heads, identifiers))
        for channel, last in known:
            self._compare(channel, heads.get(channel.deployment_id), was_there=bool(last))

    def _compare(self, channel: LogChannel, head: LogHead | None, *, was_there: bool) -> None:
        if head is None:
            # A head only disappears with its deployment. One that didn't exist before is new, not lost.
            if was_there:
                channel.is_gone = True
                channel.wake()
            return
        channel.mentioned = max(channel.mentioned, head.last_seq)
        if channel.is_behind:
            self._refresh(channel)


def _extend(channel: LogChannel, entries: Sequence[NumberedEntry]) -> None:
    """Adds entries that are new, unlike those that a channel starts with."""
    channel.extend(entries)
    if entries:
        observe_lag(entries[0].entry.timestamp)
