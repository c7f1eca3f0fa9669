"""The hub survives every error of the store, and its memory is bounded whatever clients ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from api.edge.turns import NOBODY
from api.streams.log_channel import LogChannel
from api.streams.log_hub import LogHub
from api.streams.log_watch import DeploymentGone, LogWatch
from api.streams.timing import StreamTiming
from schemas.logs import LogEntry, LogLine
from shared.logs.base import LogHead, NumberedEntry
from shared.logs.notifier import Notification
from tests.support.silent_listener import SilentListener

_TIMING = StreamTiming(poll=0.01, compare=0.01)
_LINE = LogLine(timestamp=1, stage="build", stream="stdout", text="one")


class Reader:
    """A log in memory; `on_heads` is called, in a thread, before each comparison of heads."""

    def __init__(self, on_heads: Callable[[], None]) -> None:
        self.entries: list[LogEntry] = []
        self.is_deleted = False
        self.reads = 0
        self._on_heads = on_heads

    def read(self, deployment_id: str, *, after: int, limit: int, maximum_bytes: int = 1 << 20) -> list[NumberedEntry]:
        assert deployment_id
        assert maximum_bytes
        self.reads += 1
        return [NumberedEntry(seq, entry) for seq, entry in enumerate(self.entries, start=1)][after : after + limit]

    def head(self, deployment_id: str) -> LogHead:
        assert deployment_id
        return LogHead(len(self.entries), is_closed=False)

    def heads(self, deployment_ids: Sequence[str]) -> dict[str, LogHead]:
        count, is_deleted = len(self.entries), self.is_deleted
        self._on_heads()
        return dict.fromkeys(deployment_ids, LogHead(count, is_closed=False)) if count and not is_deleted else {}


def test_an_unexpected_error_does_not_end_the_comparison_of_heads() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        failed = asyncio.Event()

        def fail_once_loaded() -> None:
            if reader.reads >= 2 and not failed.is_set():
                loop.call_soon_threadsafe(failed.set)
                raise RuntimeError("not foreseen")

        reader = Reader(fail_once_loaded)
        hub = LogHub(reader, SilentListener(), _TIMING)
        await hub.start()
        async with hub.watch("depl_a", NOBODY) as watch:
            batch = None
            async with asyncio.timeout(120):
                await failed.wait()
                reader.entries.append(_LINE)
                while batch is None:
                    batch = await watch.next(0, 1.0)
            assert b'"text":"one"' in batch.payload
        await hub.close()

    asyncio.run(run())


def test_a_log_that_begins_during_a_comparison_is_not_taken_for_a_deleted_one() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        looked_again = asyncio.Event()

        def begin_log() -> None:
            # The heads have been read, and there was none; their reader is told only after the first entry came. The
            # second read shows that the channel has been loaded.
            if reader.entries:
                loop.call_soon_threadsafe(looked_again.set)
            elif reader.reads >= 2:
                reader.entries.append(_LINE)
                loop.call_soon_threadsafe(hub.notified, "depl_a", Notification(1, 1, [_LINE]))

        reader = Reader(begin_log)
        hub = LogHub(reader, SilentListener(), _TIMING)
        await hub.start()
        async with hub.watch("depl_a", NOBODY) as watch, asyncio.timeout(120):
            # The second look begins when the first one has been dealt with.
            await looked_again.wait()
            while await watch.next(0, 1.0) is None:
                pass
            reader.is_deleted = True
            with pytest.raises(DeploymentGone):
                await _read_on(watch)
        await hub.close()

    asyncio.run(run())


async def _read_on(watch: LogWatch) -> None:
    while True:
        await watch.next(1, 1.0)


def test_a_channel_keeps_few_batches_wherever_streams_begin() -> None:
    channel = LogChannel("depl_a")
    text = "x" * 500
    entries = [
        NumberedEntry(seq, LogLine(timestamp=1, stage="b", stream="stdout", text=text)) for seq in range(1, 1001)
    ]
    channel.load(LogHead(1000, is_closed=False), entries)
    kept: dict[int, bytes] = {}
    for cursor in range(900):
        batch = channel.batch(cursor)
        assert batch is not None
        kept[cursor] = batch.payload
    # What is held once is the same object when it is asked for again; made again it is equal, but not identical.
    again = {cursor: channel.batch(cursor) for cursor in reversed(range(900))}
    shared = [cursor for cursor, batch in again.items() if batch is not None and batch.payload is kept[cursor]]
    assert 1 <= len(shared) <= 50
    assert all(batch is not None and batch.payload == kept[cursor] for cursor, batch in again.items())
