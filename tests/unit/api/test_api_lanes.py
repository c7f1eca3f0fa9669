"""Lanes: callers take turns, and a flood is refused and delays its own caller only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from api.edge.callers import address_caller
from api.edge.lanes import Lane, Overloaded
from api.edge.turns import Caller

TIMEOUT_SECONDS = 120.0


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
            assert self.released.wait(TIMEOUT_SECONDS)
            return name

        return run

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, TIMEOUT_SECONDS), self.begun


def user(name: str) -> Caller:
    return Caller(name, name, is_known=True)


def refused(future: Future[str]) -> bool:
    return isinstance(future.exception(TIMEOUT_SECONDS), Overloaded)


def test_a_caller_takes_half_of_the_threads_and_another_does_not_wait() -> None:
    work = Work()
    with closing(Lane("test", threads=4, waiting=100)) as lane:
        flood = [lane.submit(user("a"), work.named("a")) for _ in range(50)]
        work.wait_for(2)
        other = lane.submit(user("b"), work.named("b"))
        work.wait_for(3)
        assert work.begun == ["a", "a", "b"]
        work.released.set()
        assert other.result(TIMEOUT_SECONDS) == "b"
        assert [future.result(TIMEOUT_SECONDS) for future in flood] == ["a"] * 50


def test_callers_take_turns() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=100)) as lane:
        first = lane.submit(user("x"), work.named("x"))
        work.wait_for(1)
        futures = [lane.submit(user(name), work.named(name)) for name in ("a", "a", "a", "b", "c")]
        work.released.set()
        for future in (first, *futures):
            future.result(TIMEOUT_SECONDS)
        assert work.begun == ["x", "a", "b", "c", "a", "a"]


def test_a_full_queue_refuses_the_caller_with_the_most_requests_in_it() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=3)) as lane:
        running = lane.submit(user("a"), work.named("a"))
        work.wait_for(1)
        flood = [lane.submit(user("a"), work.named("a")) for _ in range(5)]
        assert [refused(future) for future in flood[3:]] == [True, True]
        other = lane.submit(user("b"), work.named("b"))
        assert refused(flood[2])
        third = lane.submit(user("c"), work.named("c"))
        assert refused(flood[1])
        # Everybody has one there now: who comes last is refused, not who is next.
        assert refused(lane.submit(user("d"), work.named("d")))
        work.released.set()
        for future, name in ((running, "a"), (flood[0], "a"), (other, "b"), (third, "c")):
            assert future.result(TIMEOUT_SECONDS) == name


@pytest.mark.parametrize("count", [4, 300])
def test_no_number_of_strangers_takes_a_users_place_or_turn(count: int) -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=4)) as lane:
        running = lane.submit(user("x"), work.named("x"))
        work.wait_for(1)
        strangers = [
            lane.submit(address_caller(f"198.51.{number // 250}.{number % 250}"), work.named("stranger"))
            for number in range(count)
        ]
        users = [lane.submit(user(name), work.named(name)) for name in "abcd"]
        assert [refused(future) for future in strangers[4:]] == [True] * (count - 4)
        work.released.set()
        for future in (running, *users, *strangers[:4]):
            future.result(TIMEOUT_SECONDS)
        assert [name for name in work.begun[1:] if name != "stranger"] == ["a", "b", "c", "d"]
        assert work.begun[1::2] == ["stranger"] * 4


def test_no_users_flood_takes_a_strangers_place_or_turn() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=4)) as lane:
        flood = [lane.submit(user("a"), work.named("a")) for _ in range(20)]
        work.wait_for(1)
        stranger = lane.submit(address_caller("192.0.2.1"), work.named("stranger"))
        work.released.set()
        assert stranger.result(TIMEOUT_SECONDS) == "stranger"
        assert [future.result(TIMEOUT_SECONDS) for future in flood[:5]] == ["a"] * 5
        assert work.begun[:2] == ["a", "stranger"]


def test_all_addresses_of_a_network_have_one_turn_and_take_it_in_turns() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=5)) as lane:
        running = lane.submit(user("x"), work.named("x"))
        work.wait_for(1)
        addresses = ["2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:4::1"]
        flood = [lane.submit(address_caller(address), work.named(address)) for address in addresses]
        other = lane.submit(address_caller("2001:db8:2:1::1"), work.named("other"))
        # Of the network that has most, and in it of the /64 that has most.
        assert [refused(future) for future in flood[1:2]] == [True]
        again = lane.submit(address_caller("2001:db8:1:9::1"), work.named("again"))
        assert refused(again)
        work.released.set()
        for future in (running, other, flood[0], *flood[2:]):
            future.result(TIMEOUT_SECONDS)
        assert work.begun == ["x", addresses[0], "other", *addresses[2:]]


def test_a_network_runs_on_half_of_the_threads() -> None:
    work = Work()
    with closing(Lane("test", threads=4, waiting=100)) as lane:
        flood = [lane.submit(address_caller(f"2001:db8:1:{number}::1"), work.named("a")) for number in range(10)]
        work.wait_for(2)
        other = lane.submit(address_caller("192.0.2.1"), work.named("b"))
        work.wait_for(3)
        assert work.begun == ["a", "a", "b"]
        work.released.set()
        assert [future.result(TIMEOUT_SECONDS) for future in (*flood, other)] == ["a"] * 10 + ["b"]


def test_a_turn_that_comes_too_late_is_refused() -> None:
    work = Work()
    with closing(Lane("test", threads=1, waiting=3, maximum_wait_seconds=0.0)) as lane:
        assert refused(lane.submit(user("a"), work.named("a")))
        assert work.begun == []


def test_errors_and_cancelled_requests_free_their_thread() -> None:
    def fail() -> str:
        raise KeyError("x")

    work = Work()
    with closing(Lane("test", threads=1, waiting=10)) as lane:
        with pytest.raises(KeyError):
            lane.submit(user("a"), fail).result(TIMEOUT_SECONDS)
        running = lane.submit(user("a"), work.named("running"))
        work.wait_for(1)
        cancelled = lane.submit(user("a"), work.named("cancelled"))
        assert cancelled.cancel()
        work.released.set()
        assert running.result(TIMEOUT_SECONDS) == "running"
        assert lane.submit(user("a"), work.named("next")).result(TIMEOUT_SECONDS) == "next"
        assert work.begun == ["running", "next"]


def test_what_waits_when_the_lane_closes_is_refused() -> None:
    work = Work()
    lane = Lane("test", threads=1, waiting=10)
    running = lane.submit(user("a"), work.named("a"))
    work.wait_for(1)
    waiting = lane.submit(user("a"), work.named("b"))
    lane.close()
    assert refused(waiting)
    assert refused(lane.submit(user("b"), work.named("c")))
    work.released.set()
    assert running.result(TIMEOUT_SECONDS) == "a"
