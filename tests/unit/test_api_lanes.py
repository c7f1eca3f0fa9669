"""Lanes: callers take turns, one caller's flood is refused and delays itself, and nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from api.lanes import Lane, Overloaded

PATIENCE_SECONDS = 120.0


@contextmanager
def closing(lane: Lane) -> Generator[Lane]:
    try:
        yield lane
    finally:
        lane.close()


class Work:
    """Functions that note when they begin, and wait until they are let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.released = threading.Event()
        self._changed = threading.Condition()

    def named(self, name: str) -> Callable[[], str]:
        def run() -> str:
            with self._changed:
                self.begun.append(name)
                self._changed.notify_all()
            assert self.released.wait(PATIENCE_SECONDS)
            return name

        return run

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, PATIENCE_SECONDS), self.begun


def refused(future: Future[str]) -> bool:
    return isinstance(future.exception(PATIENCE_SECONDS), Overloaded)


def test_a_caller_takes_half_of_the_threads_and_another_does_not_wait() -> None:
    work = Work()
    with closing(Lane("test", threads=4, waiting=100)) as lane:
        flood = [lane.submit("a", work.named("a")) for _ in range(50)]
        work.wait_for(2)
        other = lane.submit("b", work.named("b"))
        work.wait_for(3)
        assert work.begun == ["a", "a", "b"]
        work.released.set()
        assert other.result(PATIENCE_SECONDS) == "b"
        assert [future.result(PATIENCE_SECONDS) for future in flood] == ["a"] * 50


def test_callers_take_turns() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=100)) as lane:
        first = lane.submit("x", work.named("x"))
        work.wait_for(1)
        futures = [lane.submit(name, work.named(name)) for name in ("a", "a", "a", "b", "c")]
        work.released.set()
        for future in (first, *futures):
            future.result(PATIENCE_SECONDS)
        assert work.begun == ["x", "a", "b", "c", "a", "a"]


def test_a_full_queue_refuses_whoever_has_most_in_it() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=3)) as lane:
        running = lane.submit("a", work.named("a"))
        work.wait_for(1)
        flood = [lane.submit("a", work.named("a")) for _ in range(5)]
        assert [refused(future) for future in flood[3:]] == [True, True]
        other = lane.submit("b", work.named("b"))
        assert refused(flood[2])
        third = lane.submit("c", work.named("c"))
        assert refused(flood[1])
        # Everybody has one there now: who comes last is refused, not who is next.
        assert refused(lane.submit("d", work.named("d")))
        work.released.set()
        for future, name in ((running, "a"), (flood[0], "a"), (other, "b"), (third, "c")):
            assert future.result(PATIENCE_SECONDS) == name


def test_a_turn_that_comes_too_late_is_refused() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=3, patience_seconds=0.0)) as lane:
        assert refused(lane.submit("a", work.named("a")))
        assert work.begun == []


def test_errors_and_cancelled_requests_free_their_thread() -> None:
    def fail() -> str:
        raise KeyError("x")

    work = Work()
    with closing(Lane("test", threads=1, waiting=10)) as lane:
        with pytest.raises(KeyError):
            lane.submit("a", fail).result(PATIENCE_SECONDS)
        running = lane.submit("a", work.named("running"))
        work.wait_for(1)
        cancelled = lane.submit("a", work.named("cancelled"))
        assert cancelled.cancel()
        work.released.set()
        assert running.result(PATIENCE_SECONDS) == "running"
        assert lane.submit("a", work.named("next")).result(PATIENCE_SECONDS) == "next"
        assert work.begun == ["running", "next"]


def test_what_waits_when_the_lane_closes_is_refused() -> None:
    work = Work()
    lane = Lane("test", threads=1, waiting=10)
    running = lane.submit("a", work.named("a"))
    work.wait_for(1)
    waiting = lane.submit("a", work.named("b"))
    lane.close()
    assert refused(waiting)
    assert refused(lane.submit("b", work.named("c")))
    work.released.set()
    assert running.result(PATIENCE_SECONDS) == "a"
