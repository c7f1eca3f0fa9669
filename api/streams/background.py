"""The background work of a hub: tasks that end with it, and reads in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TypeVar

import anyio
import anyio.to_thread

from shared.errors import Unavailable

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class BackgroundTasks:
    """Belongs to the event loop that `start` is called on; only `call_soon` may be called from elsewhere."""

    def __init__(self, failure: str) -> None:
        """`failure`: what is logged when a task ends with an error other than an outage."""
        self._failure = failure
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Safe from any thread and from a signal handler. Does nothing before `start` and after the loop's end."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def spawn(self, coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def close(self) -> None:
        """Cancels all tasks and waits for their end."""
        pending = set(self._tasks)
        while pending:
            for task in pending:
                task.cancel()
            # Repeated: a cancellation that coincides with a library's own timeout can be lost.
            _, pending = await asyncio.wait(pending, timeout=0.5)

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        # Retrieved, so that asyncio doesn't report an outage that nobody waits for.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable):
            _logger.error(self._failure, exc_info=error)


async def run_in_thread(function: Callable[[], T], limiter: anyio.CapacityLimiter | None) -> T:
    """`limiter`: of the threads. A cancelled call doesn't wait for the function's end."""
    return await anyio.to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=True)
