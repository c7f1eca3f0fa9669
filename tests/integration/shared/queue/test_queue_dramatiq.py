"""What users of Dramatiq rely on, seen from outside: stock messages, middleware, composition and command line."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import CurrentMessage, Middleware, Shutdown, ShutdownNotifications
from redis import Redis

from shared.backoff import Backoff
from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker, current_lease
from shared.queue.job_queue import RedisJobQueue

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[4]
TIMEOUT_SECONDS = 120.0


def until(condition: Callable[[], Any]) -> Any:
    deadline, pause = time.monotonic() + TIMEOUT_SECONDS, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        pause.wait(0.01)
    return value


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url, timeout_seconds=TIMEOUT_SECONDS) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> RedisJobQueue:
    return RedisJobQueue(redis, lease_seconds=3600)


@pytest.fixture
def broker(queue: RedisJobQueue) -> Iterator[PriorityBroker]:
    broker = PriorityBroker(queue, backoff=Backoff(base_seconds=0.2, maximum_seconds=5))
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def running(broker: PriorityBroker, *, threads: int = 4, timeout_ms: int = 120_000) -> Iterator[Worker]:
    worker = Worker(broker, worker_threads=threads, worker_timeout=200)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=timeout_ms)


def test_each_message_that_is_sent_is_run_once_with_two_workers(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    ran: list[int] = []

    def note(number: int) -> None:
        ran.append(number)

    dramatiq.actor(note, broker=broker, queue_name="plain")
    second = PriorityBroker(queue)
    dramatiq.actor(note, broker=second, queue_name="plain")
    try:
        with running(broker), running(second):
            for number in range(300):
                broker.actors["note"].send(number)
            broker.join("plain", timeout=120_000)
    finally:
        second.close()
    assert sorted(ran) == list(range(300))


def test_retries_come_after_a_delay_that_doubles(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    times: list[float] = []

    @dramatiq.actor(broker=broker, queue_name="plain", max_retries=3)
    def flaky() -> None:
        times.append(time.monotonic())
        raise ValueError("not yet")

    with running(broker):
        message = flaky.send()
        until(lambda: queue.find(message.message_id) == "dead")
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert len(times) == 4
    # 0.2, 0.4 and 0.8 s, half of each at random; Redis counts in milliseconds.
    for gap, full in zip(gaps, (0.2, 0.4, 0.8), strict=True):
        assert full / 2 - 0.002 <= gap
    [letter] = queue.dead_letters("plain")
    assert (letter.attempts, letter.reason) == (4, "ValueError: not yet")


def test_an_error_that_is_expected_is_dead_at_once(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    attempts: list[int] = []

    @dramatiq.actor(broker=broker, queue_name="plain", throws=KeyError)
    def refuse() -> None:
        attempts.append(1)
        raise KeyError("no")

    with running(broker):
        message = refuse.send()
        until(lambda: queue.find(message.message_id) == "dead")
    assert attempts == [1]


def test_callbacks_follow_success_and_the_last_failure(broker: PriorityBroker) -> None:
    seen: list[tuple[str, Any]] = []

    @dramatiq.actor(broker=broker, queue_name="plain", max_retries=0)
    def divide(number: int) -> float:
        return 10 / number

    @dramatiq.actor(broker=broker, queue_name="plain")
    def succeeded(_message: dict[str, Any], result: float) -> None:
        seen.append(("success", result))

    @dramatiq.actor(broker=broker, queue_name="plain")
    def failed(_message: dict[str, Any], error: dict[str, str]) -> None:
        seen.append(("failure", error["type"]))

    with running(broker):
        divide.send_with_options(args=(5,), on_success=succeeded, on_failure=failed)
        divide.send_with_options(args=(0,), on_success=succeeded, on_failure=failed)
        until(lambda: len(seen) == 2)
        until(lambda: not any(row.depth + row.inflight + row.delayed for row in broker.queue.stats()))
    assert sorted(seen, key=str) == [("failure", "ZeroDivisionError"), ("success", 2.0)]


def test_pipelines_hand_results_on_and_stop_at_a_failure(broker: PriorityBroker) -> None:
    seen: list[Any] = []

    @dramatiq.actor(broker=broker, queue_name="plain", max_retries=0)
    def halve(number: int) -> int:
        seen.append(number)
        if number % 2:
            raise ValueError("odd")
        return number // 2

    with running(broker):
        dramatiq.pipeline([halve.message(12), halve.message(), halve.message(), halve.message()], broker=broker).run()
        until(lambda: any(row.dead for row in broker.queue.stats()))
    assert seen == [12, 6, 3]


def test_the_current_message_and_the_middleware_of_others_see_each_run(queue: RedisJobQueue) -> None:
    events: list[str] = []

    class Watch(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            events.append(f"before {message.args[0]}")

        def after_process_message(
            self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            events.append(f"after {message.args[0]} {result} {exception!r}")

    broker = PriorityBroker(queue)
    broker.add_middleware(Watch())
    ids: list[tuple[str, str]] = []

    @dramatiq.actor(broker=broker, queue_name="plain")
    def work(_number: int) -> str:
        current = CurrentMessage.get_current_message()
        lease = current_lease()
        assert current is not None
        assert lease is not None
        ids.append((current.message_id, lease.job.id))
        return "well"

    try:
        with running(broker):
            message = work.send(7)
            broker.join("plain", timeout=120_000)
    finally:
        broker.close()
    assert ids == [(message.message_id, message.message_id)]
    assert events == ["before 7", "after 7 well None"]
    assert CurrentMessage.get_current_message() is None


def test_shutdown_notifications_interrupt_and_hand_back(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    started, told = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker, queue_name="plain", notify_shutdown=True, max_retries=0)
    def long_work() -> None:
        started.set()
        try:
            while True:
                time.sleep(0.01)
        except Shutdown:
            told.set()
            raise

    assert any(isinstance(middleware, ShutdownNotifications) for middleware in broker.middleware)
    with running(broker):
        message = long_work.send()
        assert started.wait(TIMEOUT_SECONDS)
    assert told.is_set()
    assert queue.find(message.message_id) == "ready"
    assert queue.stats()[0].dead == 0


@contextmanager
def command_line(url: str, *, threads: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    """The stock `dramatiq` command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "tests.support.dramatiq_app", "--processes", "1",
         "--threads", str(threads), "--path", str(ROOT)],
        env={**os.environ, "REDIS_URL": url, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def client_of(queue: RedisJobQueue) -> PriorityBroker:
    """A process that only sends."""
    broker = PriorityBroker(queue)

    def add(_first: int, _second: int) -> None:
        """Runs elsewhere."""

    def wait(_name: str) -> None:
        """Runs elsewhere."""

    for function in (add, wait):
        dramatiq.actor(function, broker=broker, queue_name="app")
    return broker


def test_the_stock_command_line_runs_what_is_sent(redis: Redis, redis_url: str, queue: RedisJobQueue) -> None:
    client = client_of(queue)
    with command_line(redis_url) as process:
        sent = {client.actors["add"].send(number, 1).message_id for number in range(20)}
        until(lambda: redis.llen("test:ran") >= 20)
        until(lambda: not any(row.depth + row.inflight for row in queue.stats()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 0
    assert sorted(member.decode() for member in redis.lrange("test:ran", 0, -1)) == sorted(sent)
    assert queue.workers() == []
    client.close()


def test_sigterm_finishes_what_runs_and_returns_what_waits(redis: Redis, redis_url: str, queue: RedisJobQueue) -> None:
    client = client_of(queue)
    with command_line(redis_url, threads=2) as process:
        waiting = [client.actors["wait"].send(f"w{number}").message_id for number in range(5)]
        until(lambda: redis.llen("test:started") == 2)
        process.send_signal(signal.SIGTERM)
        # It has heard: nothing more is acquired while it waits for the two.
        client.actors["wait"].send("late")
        redis.set("test:go", 1)
        assert process.wait(TIMEOUT_SECONDS) == 0
    ran = {member.decode() for member in redis.lrange("test:ran", 0, -1)}
    started = {member.decode() for member in redis.lrange("test:started", 0, -1)}
    assert {"w0", "w1"} <= started == ran
    [row] = [row for row in queue.stats() if row.pool == "app"]
    assert (row.depth, row.inflight, row.dead) == (6 - len(ran), 0, 0)
    assert {queue.find(message) for message in waiting} <= {None, "ready"}
    client.close()
