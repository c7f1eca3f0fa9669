"""Streams that are behind read pages in turns: a user with many of them delays only those."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from api.edge.turns import Caller
from api.streams.cursor_hub import HubClosing
from api.streams.log_channel import BATCH_BYTES, Batch
from api.streams.log_hub import LogHub
from api.streams.timing import StreamTiming
from schemas.logs import LogEnd, LogEntry, LogLine
from shared.logs.base import LogHead, NumberedEntry
from tests.support.silent_listener import SilentListener

TIMEOUT_SECONDS = 120.0
ADA = Caller("ada", "ada", is_known=True)
BOB = Caller("bob", "bob", is_known=True)
_LINE = LogLine(timestamp=1, stage="build", stream="stdout", text="one")
_PAGE_ENTRIES = 20


class Reader:
    """A log in memory, the same for all deployments. Pages for streams that are behind wait until they are let go,
    but for those after `free`."""

    def __init__(self, entries: Sequence[LogEntry], *, free: int = -1, is_closed: bool = False) -> None:
        self.entries = list(entries)
        self.asked = asyncio.Semaphore(0)
        self.released = threading.Event()
        # Where reads that keep channels up to date began.
        self.refreshed_after: list[int] = []
        self._free = free
        self._is_closed = is_closed
        self._loop = asyncio.get_running_loop()

    def read(self, deployment_id: str, *, after: int, limit: int, maximum_bytes: int = 1 << 20) -> list[NumberedEntry]:
        assert deployment_id
        if maximum_bytes != BATCH_BYTES:
            self.refreshed_after.append(after)
        elif after != self._free:
            self._loop.call_soon_threadsafe(self.asked.release)
            assert self.released.wait(TIMEOUT_SECONDS)
        # Entries are taken for large ones: a page for a stream holds few.
        count = min(limit, _PAGE_ENTRIES) if maximum_bytes == BATCH_BYTES else limit
        return [NumberedEntry(seq, entry) for seq, entry in enumerate(self.entries[after : after + count], after + 1)]

    def head(self, deployment_id: str) -> LogHead:
        assert deployment_id
        return LogHead(len(self.entries), is_closed=self._is_closed)

    def heads(self, deployment_ids: Sequence[str]) -> dict[str, LogHead]:
        return dict.fromkeys(deployment_ids, LogHead(len(self.entries), is_closed=self._is_closed))


@asynccontextmanager
async def running(reader: Reader) -> AsyncGenerator[LogHub]:
    hub = LogHub(reader, SilentListener(), StreamTiming(poll=0.01, compare=0.01))
    await hub.start()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            yield hub
    finally:
        reader.released.set()
        await hub.close()


async def until_something(ask: Callable[[], Awaitable[Batch | None]]) -> Batch:
    while True:
        batch = await ask()
        if batch is not None:
            return batch


def test_one_users_many_pages_do_not_delay_another_users_and_none_is_lost() -> None:
    async def scenario() -> None:
        # More than may wait: those that are refused ask again.
        places = range(1200)
        reader = Reader([_LINE] * 2000, free=1000)
        async with running(reader) as hub, hub.watch("depl_a", ADA) as flood, hub.watch("depl_a", BOB) as other:
            await until_something(lambda: flood.next(1999, 1.0))
            reading = [asyncio.create_task(flood.next(cursor, TIMEOUT_SECONDS)) for cursor in places]
            # One user has half of the threads.
            for _ in range(2):
                await reader.asked.acquire()
            # A page that the other one waits for already, too.
            batch = await other.next(1000, TIMEOUT_SECONDS)
            assert batch is not None
            assert batch.cursor == 1000 + _PAGE_ENTRIES
            assert not any(task.done() for task in reading)
            reader.released.set()
            batches = await asyncio.gather(*reading)
        for cursor, found in zip(places, batches, strict=True):
            assert found is not None
            assert found.cursor == cursor + _PAGE_ENTRIES
            assert b'"seq":%d,' % (cursor + 1) in found.payload

    asyncio.run(scenario())


def test_live_streams_do_not_wait_for_pages_of_a_silent_store() -> None:
    async def scenario() -> None:
        reader = Reader([_LINE] * 1000)
        async with running(reader) as hub, hub.watch("depl_a", ADA) as one, hub.watch("depl_a", BOB) as two:
            await until_something(lambda: one.next(999, 1.0))
            behind = [
                asyncio.create_task(watch.next(cursor, TIMEOUT_SECONDS)) for watch in (one, two) for cursor in range(50)
            ]
            # Pages wait in threads, as many as there are for them.
            for _ in range(4):
                await reader.asked.acquire()
            reader.entries.append(_LINE)
            batch = await until_something(lambda: one.next(1000, 1.0))
            assert batch.cursor == 1001
            assert not any(task.done() for task in behind)
            reader.released.set()
            assert all(await asyncio.gather(*behind))

    asyncio.run(scenario())


def test_closed_logs_are_read_in_turns_alone() -> None:
    """Their entries may be in an object store that says nothing."""

    async def scenario() -> None:
        end = LogEnd(timestamp=2, status="ready")
        reader = Reader([*[_LINE] * 300, end], free=290, is_closed=True)
        async with running(reader) as hub, hub.watch("depl_a", ADA) as watch:
            batch = await until_something(lambda: watch.next(290, 1.0))
            assert (batch.cursor, batch.is_end) == (301, True)
            batch = await until_something(lambda: watch.next(301, 1.0))
            assert (batch.payload, batch.is_end) == (b"", True)
            assert reader.refreshed_after == []

    asyncio.run(scenario())


def test_a_stream_that_waits_for_a_page_sends_heartbeats_and_gets_it_later() -> None:
    async def scenario() -> None:
        reader = Reader([_LINE] * 1000)
        async with running(reader) as hub, hub.watch("depl_a", ADA) as watch:
            await until_something(lambda: watch.next(999, 1.0))
            assert await watch.next(0, 0.01) is None
            await reader.asked.acquire()
            assert await watch.next(0, 0.01) is None
            # The read continued and is not repeated.
            assert reader.asked.locked()
            reader.released.set()
            batch = await until_something(lambda: watch.next(0, TIMEOUT_SECONDS))
            assert batch.cursor == _PAGE_ENTRIES

    asyncio.run(scenario())


def test_streams_that_wait_for_their_turn_hear_of_the_shutdown() -> None:
    async def scenario() -> None:
        reader = Reader([_LINE] * 1000)
        async with running(reader) as hub, hub.watch("depl_a", ADA) as watch:
            await until_something(lambda: watch.next(999, 1.0))
            reading = [asyncio.create_task(watch.next(cursor, TIMEOUT_SECONDS)) for cursor in range(10)]
            for _ in range(2):
                await reader.asked.acquire()
            hub.begin_shutdown()
            for waiting in reading[2:]:
                with pytest.raises(HubClosing):
                    await waiting
            assert not any(task.done() for task in reading[:2])
            reader.released.set()
            assert all(await asyncio.gather(*reading[:2]))

    asyncio.run(scenario())
