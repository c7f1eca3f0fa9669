"""Sliding windows in Redis: exact across processes, and still limits while Redis is away."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from shared.clock import SystemClock
from shared.limits.windows import RedisWindows, Window
from shared.queue.connection import connect_redis
from tests.support.log_rows import eventually
from tests.support.manual_clock import ManualClock
from tests.support.ports import free_ports

ACCOUNT = Window("account", 5, 3600)
ADDRESS = Window("address", 20, 3600)


@pytest.fixture
def clients(redis_url: str) -> Iterator[list[redis.Redis]]:
    """Each as in a process of its own."""
    clients = [connect_redis(redis_url) for _ in range(3)]
    yield clients
    for client in clients:
        client.close()


def test_exactly_as_many_as_the_limit_are_let_in_of_many_at_once(clients: list[redis.Redis]) -> None:
    processes = [RedisWindows(client, SystemClock()) for client in clients]
    barrier = threading.Barrier(60)
    admitted: Counter[str] = Counter()

    def attempt(number: int) -> None:
        barrier.wait()
        # Two accounts from one address.
        account = Window(f"account {number % 2}", 5, 3600)
        wait = processes[number % 3].take([account, ADDRESS], f"event {number}")
        admitted[account.key] += wait == 0

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted == {"account 0": 5, "account 1": 5}
    # What was refused for its account was not counted for its address.
    rest = [processes[0].take([Window("other", 100, 3600), ADDRESS], f"later {number}") for number in range(11)]
    assert [wait == 0 for wait in rest] == [True] * 10 + [False]
    assert 3500 < rest[-1] <= 3600


def test_a_repeated_event_counts_once_and_one_that_is_taken_back_not_at_all(clients: list[redis.Redis]) -> None:
    first, second, _ = (RedisWindows(client, SystemClock()) for client in clients)
    for _ in range(10):
        assert first.take([ACCOUNT], "the same") == 0
    for number in range(4):
        assert second.take([ACCOUNT], f"event {number}") == 0
    assert second.take([ACCOUNT], "event 4") > 0
    first.give_back([ACCOUNT], "the same")
    assert second.take([ACCOUNT], "event 4") == 0


def test_a_window_slides(clients: list[redis.Redis]) -> None:
    windows = RedisWindows(clients[0], SystemClock())
    short = Window("short", 1, 0.2)
    assert windows.take([short], "first") == 0
    eventually(lambda: windows.take([short], "second") == 0)
    eventually(lambda: clients[1].keys("*short*") == [])


def test_scripts_that_redis_has_forgotten_are_sent_again(clients: list[redis.Redis]) -> None:
    windows = RedisWindows(clients[0], SystemClock())
    windows.take([ACCOUNT], "first")
    clients[1].script_flush()
    for number in range(4):
        assert windows.take([ACCOUNT], f"event {number}") == 0
    assert windows.take([ACCOUNT], "event 4") > 0


def test_without_redis_the_process_counts_for_itself() -> None:
    [port] = free_ports(1)
    clock = ManualClock()
    windows = RedisWindows(connect_redis(f"redis://127.0.0.1:{port}"), clock)
    # Redis is asked again after a while; counting continues either way.
    for number in range(5):
        assert windows.take([ACCOUNT], f"event {number}") == 0
        clock.advance(0.7)
    assert windows.take([ACCOUNT], "event 5") > 0
    windows.give_back([ACCOUNT], "event 0")
    assert windows.take([ACCOUNT], "event 5") == 0
