"""The broker under a stock Dramatiq worker, on a real Redis."""

from __future__ import annotations

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
from dramatiq.middleware import Retries, Shutdown
from redis import Redis

from schemas.messages import Job
from shared.backoff import Backoff
from shared.queue.base import CancelAnswer, Lease
from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker, current_lease
from shared.queue.job_queue import RedisJobQueue
from shared.stack.valkey import ValkeyServer

pytestmark = pytest.mark.integration
PROGRAM = Path(__file__).parents[3] / "support" / "queue_worker_program.py"
TIMEOUT_SECONDS = 120.0


def until(condition: Callable[[], Any], seconds: float = TIMEOUT_SECONDS) -> Any:
    """Polls a condition of another process or thread; the test fails when it never holds."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        pause.wait(0.01)
    return value


def make(job_id: str, *, slot: str | None = None, actor: str = "run_stage", **more: Any) -> Job:
    return Job(
        id=job_id, pool="clone", actor=actor, tenant_id="t1", payload=more.pop("payload", {"n": 1}), slot=slot, **more
    )


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url, timeout_seconds=TIMEOUT_SECONDS) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> RedisJobQueue:
    """Its leases neither expire nor are renewed during a test, so that no test passes by waiting for that."""
    return RedisJobQueue(redis, lease_seconds=3600)


@pytest.fixture
def broker(queue: RedisJobQueue) -> Iterator[PriorityBroker]:
    broker = PriorityBroker(queue, backoff=Backoff(base_seconds=0.02, maximum_seconds=0.05))
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def running(broker: PriorityBroker, threads: int = 4) -> Iterator[Worker]:
    worker = Worker(broker, worker_threads=threads, worker_timeout=200)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=120_000)


def stage_actor(broker: PriorityBroker, function: Callable[[Lease, dict[str, object]], None]) -> None:
    def run_stage(payload: dict[str, object]) -> None:
        lease = current_lease()
        assert lease is not None
        function(lease, payload)

    dramatiq.actor(run_stage, broker=broker, queue_name="clone")


def test_a_job_calls_its_actor_once_with_its_payload(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    calls: list[tuple[Any, ...]] = []
    stage_actor(broker, lambda lease, payload: calls.append((payload, lease.job.id, lease.attempt)))
    queue.enqueue(make("a", payload={"deployment": "d1", "clean": True, "n": None}))
    with running(broker):
        broker.join("clone", timeout=120_000)
    assert calls == [({"deployment": "d1", "clean": True, "n": None}, "a", 1)]
    assert current_lease() is None


def test_plain_messages_work_with_delay_pipelines_and_callbacks(broker: PriorityBroker) -> None:
    seen: list[Any] = []

    @dramatiq.actor(broker=broker, queue_name="plain")
    def double(number: int) -> int:
        seen.append(number)
        return number * 2

    @dramatiq.actor(broker=broker, queue_name="plain")
    def report(data: dict[str, Any], result: Any) -> None:
        seen.append(("success", result))

    with running(broker):
        double.send(1)
        double.send_with_options(args=(10,), delay=150, on_success=report)
        dramatiq.pipeline([double.message(100), double.message()], broker=broker).run()
        broker.join("plain", timeout=120_000)
    assert sorted(map(str, seen)) == sorted(map(str, [1, 10, 100, 200, ("success", 20)]))
    assert broker.get_declared_delay_queues() == set()


def test_a_failing_actor_is_retried_and_then_dead_lettered(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    attempts: list[tuple[int, bool]] = []

    def fail(lease: Lease, _payload: dict[str, object]) -> None:
        attempts.append((lease.attempt, lease.is_last_attempt))
        raise ValueError("no luck")

    stage_actor(broker, fail)
    queue.enqueue(make("a", slot="d1", max_attempts=3))
    with running(broker):
        until(lambda: queue.find("a") == "dead")
    assert attempts == [(1, False), (2, False), (3, True)]
    [letter] = queue.dead_letters("clone")
    assert letter.reason == "ValueError: no luck"
    assert queue.running_set("t1") == set()


def test_the_stock_retries_middleware_works_too(queue: RedisJobQueue) -> None:
    broker = PriorityBroker(queue, middleware=[Retries(max_retries=2, min_backoff=10, max_backoff=20)])
    attempts: list[int] = []

    @dramatiq.actor(broker=broker, queue_name="plain")
    def flaky() -> None:
        lease = current_lease()
        assert lease is not None
        attempts.append(lease.attempt)
        raise ValueError("not yet")

    with running(broker):
        message = flaky.send()
        until(lambda: queue.find(message.message_id) == "dead")
    # Retries sends a copy each time, so each is a first attempt, and it is Retries that gives up.
    assert attempts == [1, 1, 1]


def test_outcomes_that_the_code_sets_are_applied(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    log: list[tuple[str, int]] = []

    def work(lease: Lease, _payload: dict[str, object]) -> None:
        log.append((lease.job.id, lease.attempt))
        if lease.job.id == "a" and len(log) == 1:
            lease.release(delay_seconds=0.05)
        elif lease.job.id == "a" and len(log) == 2:
            lease.retry(0.05)
            raise RuntimeError("the disposition that was set counts")
        elif lease.job.id == "a":
            assert queue.running_set("t1") == {"d1"}
            lease.done([make("b", slot="d1")])

    stage_actor(broker, work)
    queue.enqueue(make("a", slot="d1"))
    with running(broker):
        broker.join("clone", timeout=120_000)
    assert log == [("a", 1), ("a", 1), ("a", 2), ("b", 1)]
    assert queue.running_set("t1") == set()


def test_no_more_is_acquired_than_threads_are_idle(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    go = threading.Event()
    stage_actor(broker, lambda _lease, _payload: assert_true(go.wait(TIMEOUT_SECONDS)))
    for n in range(9):
        queue.enqueue(make(f"j{n}"))
    with running(broker, threads=2):
        until(lambda: len(broker.leases.all()) == 2)
        [row] = queue.stats()
        assert (row.inflight, row.depth) == (2, 7)
        assert [(record.threads, record.pool) for record in until(queue.workers)] == [(2, "clone")]
        go.set()
        broker.join("clone", timeout=120_000)
    assert queue.workers() == []


def assert_true(value: bool) -> None:
    assert value


def test_an_idle_worker_is_notified_and_need_not_poll(queue: RedisJobQueue) -> None:
    broker = PriorityBroker(queue, poll_seconds=3600)
    picked: list[str] = []
    stage_actor(broker, lambda lease, _payload: picked.append(lease.job.id))
    try:
        with running(broker):
            for n in range(30):
                queue.enqueue(make(f"j{n}"))
                until(lambda n=n: f"j{n}" in picked)
                broker.join("clone", interval=1, timeout=120_000)
    finally:
        broker.close()
    assert picked == [f"j{n}" for n in range(30)]


def test_cancel_of_a_running_job_sets_its_event_without_waiting_for_a_beat(
    broker: PriorityBroker, queue: RedisJobQueue
) -> None:
    started, told = threading.Event(), threading.Event()

    def work(lease: Lease, _payload: dict[str, object]) -> None:
        started.set()
        if lease.cancelled.wait(TIMEOUT_SECONDS):
            told.set()
        raise RuntimeError("killed")

    stage_actor(broker, work)
    queue.enqueue(make("a", slot="d1"))
    with running(broker):
        assert started.wait(TIMEOUT_SECONDS)
        assert queue.cancel("a") is CancelAnswer.SIGNALLED
        assert told.wait(TIMEOUT_SECONDS)
        broker.join("clone", timeout=120_000)
    assert queue.find("a") is None
    assert queue.running_set("t1") == set()


def test_a_stop_returns_what_waits_and_lets_the_running_hand_back(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    started = threading.Event()

    def work(lease: Lease, _payload: dict[str, object]) -> None:
        started.set()
        assert lease.stopping.wait(TIMEOUT_SECONDS)
        lease.release()

    stage_actor(broker, work)
    for n in range(3):
        queue.enqueue(make(f"j{n}", slot=f"d{n}", max_attempts=1, tenant_limit=3))
    with running(broker, threads=1):
        assert started.wait(TIMEOUT_SECONDS)
    [row] = queue.stats()
    assert (row.depth, row.inflight, row.dead) == (3, 0, 0)
    assert [job.job.id for job in queue.acquire("clone", 9, worker="w", request_id="r").jobs] == ["j0", "j1", "j2"]


def test_an_interrupted_actor_is_handed_back(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    def work(_lease: Lease, _payload: dict[str, object]) -> None:
        broker.stopping.set()
        raise Shutdown

    stage_actor(broker, work)
    queue.enqueue(make("a", max_attempts=1))
    with running(broker):
        until(lambda: broker.stopping.is_set() and queue.find("a") == "ready")


def test_an_unknown_actor_is_dead_lettered_and_its_slot_freed(broker: PriorityBroker, queue: RedisJobQueue) -> None:
    stage_actor(broker, lambda _lease, _payload: None)
    queue.enqueue(make("a", actor="from_the_future", slot="d1"))
    with running(broker):
        until(lambda: queue.find("a") == "dead")
    [letter] = queue.dead_letters("clone")
    assert "from_the_future" in letter.reason
    assert queue.running_set("t1") == set()
    assert broker.idle.busy == 0


def test_flushall_in_mid_job_tells_the_code_that_its_lease_is_lost(redis: Redis) -> None:
    queue = RedisJobQueue(redis, lease_seconds=1.5)
    broker = PriorityBroker(queue)
    started, lost = threading.Event(), threading.Event()

    def work(lease: Lease, _payload: dict[str, object]) -> None:
        started.set()
        if lease.lost.wait(TIMEOUT_SECONDS):
            lost.set()

    stage_actor(broker, work)
    queue.enqueue(make("a"))
    try:
        with running(broker):
            assert started.wait(TIMEOUT_SECONDS)
            redis.flushall()
            assert lost.wait(TIMEOUT_SECONDS)
            # The worker continues with the next job.
            started.clear()
            queue.enqueue(make("a"))
            assert started.wait(TIMEOUT_SECONDS)
            redis.flushall()
    finally:
        broker.close()


@contextmanager
def worker_process(url: str, *, lease_seconds: float = 1.5, threads: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(PROGRAM), url, "clone", str(lease_seconds), str(threads)])
    try:
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
        process.wait()


def test_a_killed_process_loses_nothing_and_a_stopped_one_is_fenced(
    redis: Redis, redis_url: str, queue: RedisJobQueue
) -> None:
    def has(event: str, process: subprocess.Popen[bytes]) -> bool:
        records = redis.lrange(f"test:{event}", 0, -1)
        return any(record.decode().split(":")[-1] == str(process.pid) for record in records)

    queue.enqueue(make("a", slot="d1", max_attempts=50, payload={"hangs": True}))
    with worker_process(redis_url) as first, worker_process(redis_url) as second:
        until(lambda: has("up", first) and has("up", second))
        until(lambda: has("started", first) or has("started", second))
        # Which of the two has it?
        owner, other = (first, second) if has("started", first) else (second, first)
        owner.kill()
        until(lambda: has("started", other))
        assert queue.running_set("t1") == {"d1"}
        # The second one is frozen beyond its lease; a third takes over; when it wakes it is told.
        other.send_signal(signal.SIGSTOP)
        with worker_process(redis_url, lease_seconds=3600) as third:
            until(lambda: has("started", third))
            other.send_signal(signal.SIGCONT)
            until(lambda: has("lost", other))
            third.send_signal(signal.SIGTERM)
            assert third.wait(TIMEOUT_SECONDS) == 0
    starts = [entry.decode().split(":") for entry in redis.lrange("test:started", 0, -1)]
    attempts = [int(attempt) for _id, attempt, _token, _process in starts]
    assert attempts[:3] == [1, 2, 3]
    tokens = [int(token) for _id, _attempt, token, _process in starts]
    assert tokens == sorted(set(tokens))


def test_sigterm_hands_back_and_ends(redis: Redis, redis_url: str, queue: RedisJobQueue) -> None:
    queue.enqueue(make("a", slot="d1", payload={"hangs": True}))
    with worker_process(redis_url, lease_seconds=3600) as process:
        until(lambda: redis.llen("test:started") == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 0
    assert queue.find("a") == "ready"
    assert queue.running_set("t1") == {"d1"}
    assert queue.workers() == []


@pytest.mark.parametrize("is_durable", [True, False], ids=["data-kept", "data-lost"])
def test_a_restart_of_redis_in_mid_job(tmp_path: Path, is_durable: bool) -> None:
    from tests.support.ports import free_ports

    [port] = free_ports(1)
    server = ValkeyServer(tmp_path, port=port, password="x" * 32, is_durable=is_durable)
    server.start()
    server.wait(TIMEOUT_SECONDS)
    results: list[str] = []
    finished, started = threading.Event(), threading.Event()
    go = threading.Event()

    def work(lease: Lease, _payload: dict[str, object]) -> None:
        started.set()
        assert go.wait(TIMEOUT_SECONDS)
        # Nobody said that it was lost while Redis was away.
        results.append("lost" if lease.lost.is_set() else "kept")
        if lease.job.id == "a":
            lease.done([make("next")])
            finished.set()

    try:
        with connect_redis(server.url) as redis:
            queue = RedisJobQueue(redis, lease_seconds=3600)
            broker = PriorityBroker(queue)
            stage_actor(broker, work)
            queue.enqueue(make("a", slot="d1"))
            with running(broker):
                assert started.wait(TIMEOUT_SECONDS)
                server.stop()
                go.set()
                assert finished.wait(TIMEOUT_SECONDS)
                server.start()
                server.wait(TIMEOUT_SECONDS)
                until(lambda: broker.idle.busy == 0)
                if is_durable:
                    until(lambda: len(results) == 2)
                    assert results[0] == "kept"
                else:
                    assert results == ["kept"]
                queue.enqueue(make("after"))
                until(lambda: queue.find("after") is None)
            broker.close()
    finally:
        server.stop()
