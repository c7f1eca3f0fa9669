"""What the hubs of logs and of account events have in common.

A hub has a channel for each key that some stream watches: the newest entries, encoded once for all streams. Streams
pull by cursor and have no queue. A notification wakes the hub, which reads new entries from the store into the
channel and wakes the channel's streams; a stream that is behind its channel reads pages of the store, in its caller's
turn. Nothing depends on a notification arriving: channels are compared with the store from time to time, more often
while Redis is down.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import anyio

from api.edge.turns import Caller
from api.streams.background import BackgroundTasks, run_in_thread
from api.streams.page_reads import PageReads
from api.streams.timing import StreamTiming
from shared.errors import Unavailable

# Longer than a RedisNotifier pauses after a failure.
_WRITERS_RETURN_SECONDS = 5.0


class HubClosing(Exception):
    """The process is about to stop; the client should come back to another one."""


class ChangeSignal:
    """Wakes tasks. Belongs to one event loop."""

    def __init__(self) -> None:
        self.changes = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        self.changes += 1
        for waiter in self._waiters:
            _end_wait(waiter)

    async def wait(self, changes: int, seconds: float) -> None:
        """Returns when there are more than so many `changes`, or after so long.

        Thousands may wait here: an Event under a timeout costs twice as much.
        """
        if self.changes > changes:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _end_wait, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _end_wait(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Connected(Protocol):
    """A listener to notifications."""

    @property
    def is_connected(self) -> bool: ...


class CompareSchedule:
    """When to compare channels with the store although no notification came: every `compare` seconds, and at each look
    while Redis is down or has just returned, because writers notice its return a moment later."""

    def __init__(self, listener: Connected, timing: StreamTiming) -> None:
        self._listener = listener
        self._timing = timing
        self._compared_at = self._disconnected_at = -math.inf

    def is_due(self) -> bool:
        """Must be asked every `poll` seconds, or outages between go unnoticed."""
        now = asyncio.get_running_loop().time()
        if not self._listener.is_connected:
            self._disconnected_at = now
        is_up = now - self._disconnected_at > _WRITERS_RETURN_SECONDS
        return not is_up or now - self._compared_at >= self._timing.compare

    def note_comparison(self) -> None:
        self._compared_at = asyncio.get_running_loop().time()

    def note_outage(self) -> None:
        """Redis was down until now."""
        self._disconnected_at = asyncio.get_running_loop().time()


class Channel(Protocol):
    def wake(self) -> None:
        """Wakes all streams of the channel."""
        ...


C = TypeVar("C", bound=Channel)
P = TypeVar("P")
R = TypeVar("R")


class CursorHub(ABC, Generic[C, P]):
    """Channels `C` by key, and pages `P` of the store. Belongs to the event loop that `start` runs on; only
    `begin_shutdown` may be called from elsewhere.

    Stopping takes two steps, because uvicorn waits for connections to end before it runs shutdown hooks:
    `begin_shutdown` on SIGTERM tells every stream to send `reconnect` and end, `close` frees what is left.
    """

    def __init__(
        self, *, lane: str, readers: int, listener: Connected, timing: StreamTiming | None, failure: str
    ) -> None:
        """`lane`: of pages, for its metrics. `readers`: threads that keep channels up to date, each with a connection
        of the process's pool. Pages have other threads (PageReads): live streams don't wait for pages of finished logs
        when their store is slow. `failure`: what is logged when a task of the hub ends by an unexpected error."""
        self.timing = timing or StreamTiming()
        self._schedule = CompareSchedule(listener, self.timing)
        self._channels: dict[str, C] = {}
        self._tasks = BackgroundTasks(failure)
        self._pages = PageReads[P](lane, self._tasks)
        self._reader_threads = readers
        self._readers: anyio.CapacityLimiter | None = None
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    @property
    def watched_count(self) -> int:
        """Keys that some stream watches."""
        return len(self._channels)

    async def start(self) -> None:
        self._tasks.start()
        self._readers = anyio.CapacityLimiter(self._reader_threads)
        self._spawn_tasks()

    @abstractmethod
    def _spawn_tasks(self) -> None:
        """Starts the tasks that live as long as the hub."""

    def begin_shutdown(self) -> None:
        """Safe from any thread and from a signal handler; may be called again."""
        self._tasks.call_soon(self._tell_shutdown)

    async def close(self) -> None:
        self._tell_shutdown()
        await self._tasks.close()

    def _tell_shutdown(self) -> None:
        self._is_closing = True
        # Streams that wait for their turns can say goodbye.
        self._pages.close()
        for channel in self._channels.values():
            channel.wake()

    async def _read(self, function: Callable[[], R]) -> R:
        """Runs the function in a reader's thread."""
        return await run_in_thread(function, self._readers)


class WatchedHub(Protocol):
    """The part of a hub that every watch needs."""

    timing: StreamTiming

    @property
    def is_closing(self) -> bool: ...


H = TypeVar("H", bound=WatchedHub)
K = TypeVar("K")
N = TypeVar("N")


class CursorWatch(ABC, Generic[H, K, N]):
    """One stream's view of the channels of a hub `H`: pulls news `N` by cursor `K`. Used by one task."""

    def __init__(self, hub: H, signal: ChangeSignal, caller: Caller) -> None:
        """`signal`: of changes of the channels. `caller`: takes the turns for pages of the store."""
        self._hub = hub
        self._signal = signal
        self._caller = caller

    async def next(self, cursor: K, timeout_seconds: float) -> N | None:
        """What follows the cursor, waiting for it; None when the time is over.

        Raises HubClosing, and what `_find` raises. While PostgreSQL is down it waits, too.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            if self._hub.is_closing:
                raise HubClosing
            changes = self._signal.changes
            pause = timeout_seconds
            try:
                news = await self._find(cursor, deadline - clock())
            except Unavailable:
                news, pause = None, self._hub.timing.poll
            if news is not None:
                return news
            left = deadline - clock()
            if left <= 0:
                return None
            await self._signal.wait(changes, min(pause, left))

    @abstractmethod
    async def _find(self, cursor: K, seconds: float) -> N | None:
        """What follows the cursor now, from the channel or a page of the store that is waited for at most so long.

        Raises Unavailable when the store can't be read.
        """
