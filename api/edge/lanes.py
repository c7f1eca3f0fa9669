"""Threads for requests: a lane of its own for each kind of work, so that one kind never holds the threads of another.

A lane has few threads, and a short queue each for users and strangers (api.edge.turns). Callers take turns in it, one
caller runs on at most half of its threads, and when the queue is full the newest request of the caller with the most
waiting requests is refused. A flood therefore delays and refuses itself, and everybody else waits for one turn at most.
However many strangers there are, a user's request finds a place, and every second turn is a user's.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar, cast

from api.edge.turns import NOBODY, Caller, Turns
from shared.errors import Unavailable
from shared.metrics import count_refusal

P = ParamSpec("P")
T = TypeVar("T")

_RETRY_SECONDS = 2


class Overloaded(Unavailable):
    """Too many requests of this kind are waiting."""


@dataclass(slots=True)
class _Job:
    caller: Caller
    function: Callable[[], object]
    begun: float
    future: Future[object] = field(default_factory=Future[object])


class Lane:
    """Runs functions on at most `threads` threads and lets `waiting` more of users and `waiting` of strangers wait,
    each for `maximum_wait_seconds` at most. Safe from any thread."""

    def __init__(self, name: str, *, threads: int, waiting: int, maximum_wait_seconds: float = 10.0) -> None:
        self.name = name
        self._threads = threads
        self.most_of_a_caller = max(1, threads // 2)
        self._maximum_wait_seconds = maximum_wait_seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._turns = Turns[_Job](waiting)
        # By the callers' groups.
        self._running: Counter[str] = Counter()
        self._is_closed = False

    def submit(self, caller: Caller, function: Callable[[], T]) -> Future[T]:
        """The future raises Overloaded when the queue is full, or when the turn comes too late."""
        job = _Job(caller, function, time.monotonic())
        with self._lock:
            if self._is_closed:
                started, refused = [], job
            else:
                self._turns.add(job)
                started = self._take_startable()
                refused = self._turns.take_excess(caller)
        self._start(started)
        if refused is not None:
            self._refuse(refused)
        return cast("Future[T]", job.future)

    def close(self) -> None:
        """Refuses waiting functions. Running ones are neither interrupted nor waited for."""
        with self._lock:
            left = self._turns.take_all()
            self._is_closed = True
        for job in left:
            self._refuse(job)
        self._pool.shutdown(wait=False)

    def _take_startable(self) -> list[_Job]:
        started: list[_Job] = []
        while self._running.total() < self._threads:
            job = self._turns.take(lambda group: self._running[group] < self.most_of_a_caller)
            if job is None:
                break
            started.append(job)
            self._running[job.caller.group] += 1
        return started

    def _start(self, jobs: list[_Job]) -> None:
        for job in jobs:
            try:
                self._pool.submit(self._run, job)
            except RuntimeError:
                # The lane was closed meanwhile.
                self._refuse(job)

    def _run(self, job: _Job) -> None:
        try:
            if time.monotonic() - job.begun > self._maximum_wait_seconds:
                self._refuse(job)
            elif job.future.set_running_or_notify_cancel():
                try:
                    result = job.function()
                except BaseException as error:  # noqa: BLE001 - the future carries it to the caller
                    job.future.set_exception(error)
                else:
                    job.future.set_result(result)
        finally:
            self._finished(job)

    def _finished(self, job: _Job) -> None:
        with self._lock:
            self._running[job.caller.group] -= 1
            if not self._running[job.caller.group]:
                del self._running[job.caller.group]
            started = self._take_startable()
        self._start(started)

    def _refuse(self, job: _Job) -> None:
        count_refusal(self.name)
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(
                Overloaded(
                    f"Too many requests of this kind are waiting; try again in {_RETRY_SECONDS} seconds.",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            )


def request_threads() -> int:
    """How many requests run at once, besides those of the special lanes."""
    return min(12, (os.cpu_count() or 1) + 6)


class Lanes:
    """`requests`: work bound by the database, including the authentication of every request. `passwords`: hashing.
    `logs`: pages of logs, which may come from the object store. `health`: the health checks. `bodies`: decoding of
    large bodies. A route names its lane as `threads` in its `opt`."""

    def __init__(self) -> None:
        self.requests = Lane("requests", threads=request_threads(), waiting=256)
        self.passwords = Lane("passwords", threads=2, waiting=16)
        self.logs = Lane("logs", threads=4, waiting=64)
        self.health = Lane("health", threads=4, waiting=64)
        self.bodies = Lane("bodies", threads=2, waiting=16)

    def named(self, name: str) -> Lane:
        lane: Lane = getattr(self, name)
        return lane

    @asynccontextmanager
    async def running(self, _application: object = None) -> AsyncGenerator[None]:
        """Makes the running loop send the synchronous functions of requests to their lanes, by replacing its default
        executor, on which Litestar runs handlers."""
        asyncio.get_running_loop().set_default_executor(_RequestThreads(max_workers=4, thread_name_prefix="other"))
        try:
            yield
        finally:
            for lane in (self.requests, self.passwords, self.logs, self.health, self.bodies):
                lane.close()


# The lane and the caller of the request that this task answers.
_place: ContextVar[tuple[Lane, Caller] | None] = ContextVar("place", default=None)


def enter(lane: Lane, caller: Caller) -> None:
    """Functions that this task gives to a thread from now on run in the lane, on behalf of the caller."""
    _place.set((lane, caller))


async def run_in(lane: Lane, function: Callable[[], T]) -> T:
    """Runs the function in another lane than the request's, on behalf of the same caller. Raises Overloaded."""
    place = _place.get()
    return await asyncio.wrap_future(lane.submit(NOBODY if place is None else place[1], function))


class _RequestThreads(ThreadPoolExecutor):
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        place = _place.get()
        if place is None:
            return super().submit(fn, *args, **kwargs)
        lane, caller = place
        return lane.submit(caller, lambda: fn(*args, **kwargs))
