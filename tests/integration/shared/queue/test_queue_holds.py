"""A worker process that takes no new jobs: it drains, or has paused itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker

from schemas.messages import Job
from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerState
from tests.support.log_rows import eventually

pytestmark = pytest.mark.integration
TIMEOUT_SECONDS = 120.0


class Pool:
    """A worker with two threads, whose jobs run until they are let go."""

    def __init__(self, queue: RedisJobQueue) -> None:
        self.queue = queue
        self.started = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.done: list[str] = []
        self.broker = PriorityBroker(queue)

        def hold(payload: dict[str, Any]) -> None:
            self.started.release()
            assert self.go_on.wait(TIMEOUT_SECONDS)
            self.done.append(payload["name"])

        dramatiq.actor(hold, broker=self.broker, queue_name="clone")

    def enqueue(self, name: str) -> None:
        self.queue.enqueue(Job(id=name, pool="clone", actor="hold", tenant_id="t1", payload={"name": name}))

    def await_start(self) -> None:
        assert self.started.acquire(timeout=TIMEOUT_SECONDS)

    def registration(self) -> tuple[WorkerState, str] | None:
        return next(((record.state, record.reason) for record in self.queue.workers()), None)

    @contextmanager
    def running(self) -> Iterator[None]:
        worker = Worker(self.broker, worker_threads=2, worker_timeout=200)
        worker.start()
        try:
            yield
        finally:
            self.go_on.set()
            worker.stop(timeout=120_000)
            self.broker.close()


@pytest.fixture
def pool(redis_url: str) -> Iterator[Pool]:
    with connect_redis(redis_url, timeout_seconds=TIMEOUT_SECONDS) as client:
        yield Pool(RedisJobQueue(client, lease_seconds=3600))


def test_a_worker_that_drains_ends_its_jobs_and_takes_no_other(pool: Pool) -> None:
    pool.enqueue("running")
    with pool.running():
        pool.await_start()
        outcome: list[bool] = []
        draining = threading.Thread(target=lambda: outcome.append(pool.broker.drain_jobs(3600, lambda: False)))
        draining.start()
        eventually(lambda: pool.registration() == (WorkerState.DRAINING, ""), TIMEOUT_SECONDS)
        pool.enqueue("late")
        # A second registration comes after several rounds of the exchange.
        assert pool.queue.find("late") == "ready"
        pool.go_on.set()
        draining.join(TIMEOUT_SECONDS)
        assert outcome == [True]
    assert pool.done == ["running"]
    assert pool.queue.find("running") is None
    assert pool.queue.find("late") == "ready"


def test_a_drain_ends_with_its_time_or_when_it_becomes_urgent(pool: Pool) -> None:
    pool.enqueue("running")
    urgent = threading.Event()
    with pool.running():
        pool.await_start()
        assert pool.broker.drain_jobs(0, urgent.is_set) is False
        urgent.set()
        assert pool.broker.drain_jobs(3600, urgent.is_set) is False


def test_a_paused_worker_says_why_and_continues(pool: Pool) -> None:
    with pool.running():
        pool.broker.holds.pause("clock", "Its clock is wrong.")
        pool.broker.holds.pause("failures", "It only fails.")
        eventually(
            lambda: pool.registration() == (WorkerState.PAUSED, "Its clock is wrong. It only fails."), TIMEOUT_SECONDS
        )
        pool.enqueue("first")
        pool.broker.holds.resume("clock")
        eventually(lambda: pool.registration() == (WorkerState.PAUSED, "It only fails."), TIMEOUT_SECONDS)
        assert pool.queue.find("first") == "ready"
        pool.broker.holds.resume("failures")
        pool.await_start()
        eventually(lambda: pool.registration() == (WorkerState.RUNNING, ""), TIMEOUT_SECONDS)


def test_a_worker_on_trial_takes_one_job_at_a_time(pool: Pool) -> None:
    for name in ("first", "second"):
        pool.enqueue(name)
    with pool.running():
        pool.broker.holds.pause("failures", "It is on trial.", threads=1)
        pool.await_start()
        eventually(lambda: pool.registration() == (WorkerState.PAUSED, "It is on trial."), TIMEOUT_SECONDS)
        pool.broker.holds.resume("failures")
        pool.await_start()
