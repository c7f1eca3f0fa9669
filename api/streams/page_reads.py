"""Pages of the store for streams that are behind: callers take turns, as they do with requests (api.edge.lanes)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from api.edge.lanes import Lane
from api.edge.turns import Caller
from api.streams.background import BackgroundTasks

T = TypeVar("T")

# Each takes a connection of the process's pool, and one caller runs on at most half of them.
_THREADS = 4
# More are refused, as by an unavailable store: their streams ask again. An open stream has one page at most here, so
# that this bounds the reads that streams leave behind when they end while waiting.
_WAITING = 1024


class PageReads(Generic[T]):
    """Belongs to one event loop. Streams of one caller at one place share a read; those of two callers don't, because
    one would wait for the other's turn."""

    def __init__(self, name: str, tasks: BackgroundTasks) -> None:
        """`name`: the lane's, for its metrics."""
        # A stream waits for its page as long as it takes.
        self._lane = Lane(name, threads=_THREADS, waiting=_WAITING, maximum_wait_seconds=math.inf)
        self._tasks = tasks
        self._reads: dict[tuple[Caller, Hashable], asyncio.Task[T]] = {}

    async def read(self, caller: Caller, place: Hashable, function: Callable[[], T], seconds: float) -> T | None:
        """The function's result; None when the time is over. The read then continues, for the next call.

        Raises Unavailable, also if too many wait, and the function's errors.
        """
        key = (caller, place)
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = self._tasks.spawn(self._take_turn(caller, function))
            task.add_done_callback(lambda _: self._reads.pop(key, None))
        done, _ = await asyncio.wait([task], timeout=seconds)
        return task.result() if done else None

    def close(self) -> None:
        """Refuses waiting and later reads. May be called again."""
        self._lane.close()

    async def _take_turn(self, caller: Caller, function: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._lane.submit(caller, function))
