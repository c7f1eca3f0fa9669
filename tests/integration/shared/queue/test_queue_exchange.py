"""Finishes and acquires that share a round trip: in any mixture, with lost answers, and with one that can't be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from schemas.messages import Job
from shared.queue.connection import connect_redis
from shared.queue.dramatiq.exchange import Exchange
from shared.queue.dramatiq.idle_threads import IdleThreads
from shared.queue.dramatiq.lease import LeaseTable, RunningLease
from shared.queue.encoding import encode_finish
from shared.queue.errors import QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import AcquiredJob, Batch, Disposition
from shared.signals import Signal
from tests.support.queue_flood import enqueue_many

pytestmark = pytest.mark.integration
CLOCK = "{cloudify}:test-clock"
TIMEOUT_SECONDS = 120.0


class LossyQueue(RedisJobQueue):
    """Loses the answers to the next exchanges: they are carried out, but the caller doesn't learn it."""

    lost_answers = 0

    def exchange(self, *arguments: Any, **more: Any) -> Batch:
        batch = super().exchange(*arguments, **more)
        if self.lost_answers > 0:
            self.lost_answers -= 1
            raise QueueUnavailable("The answer was lost.")
        return batch


class Process:
    """What a broker has: an exchange for the pool `p`, idle threads and leases."""

    def __init__(self, queue: RedisJobQueue, threads: int) -> None:
        self.idle, self.leases, self.stopping = IdleThreads(), LeaseTable(), Signal()
        self.idle.resize(threads)
        self.exchange = Exchange(
            queue, "p", worker="w", idle=self.idle, leases=self.leases, stopping=self.stopping
        )  # fmt: skip

    def run(self) -> list[RunningLease]:
        leases = [RunningLease(acquired, stopping=self.stopping) for acquired in self.exchange.run(0)]
        for lease in leases:
            self.leases.add(lease)
        return leases

    def finish(self, lease: RunningLease, *next_jobs: Job) -> None:
        self.exchange.finish(lease, encode_finish(lease.job.id, lease.token, Disposition.DONE, next_jobs=next_jobs))


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url, timeout_seconds=TIMEOUT_SECONDS) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> LossyQueue:
    return LossyQueue(redis)


def make(job_id: str, **more: Any) -> Job:
    return Job(id=job_id, pool="p", actor="a", tenant_id=more.pop("tenant", "t"), payload={}, **more)


def fill(queue: RedisJobQueue, count: int, **more: Any) -> None:
    assert enqueue_many(queue, [make(f"j{number:05}", **more) for number in range(count)]) == count


def ids(entries: list[RunningLease] | tuple[AcquiredJob, ...]) -> list[str]:
    return [entry.job.id for entry in entries]


def figures(queue: RedisJobQueue) -> tuple[int, int]:
    [row] = queue.stats()
    return row.depth, row.inflight


def test_what_a_finish_frees_is_handed_out_in_the_same_step(queue: LossyQueue) -> None:
    queue.enqueue(make("a", slot="d1"))
    queue.enqueue(make("b", slot="d2"))
    process = Process(queue, threads=2)
    [first] = process.run()
    assert process.run() == []
    process.finish(first, make("follower", slot="d1"))
    # The follower keeps the slot of a, so b has to wait; when it is done b's turn comes.
    [second] = process.run()
    assert second.job.id == "follower"
    process.finish(second)
    assert ids(process.run()) == ["b"]
    assert queue.running_set("t") == {"d2"}


def test_all_that_was_handed_in_goes_with_one_call_and_no_more_is_acquired_than_threads_are_idle(
    queue: LossyQueue, redis: Redis
) -> None:
    fill(queue, 10)
    process = Process(queue, threads=4)
    running = process.run()
    assert len(running) == 4
    for lease in running[:3]:
        process.finish(lease)
    redis.config_resetstat()
    assert len(process.run()) == 3
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    assert figures(queue) == (3, 4)
    assert process.idle.busy == 4
    assert len(process.leases.all()) == 4


@pytest.mark.parametrize("lost_answers", [1, 3])
def test_a_lost_answer_is_asked_for_again_and_nothing_happens_twice(queue: LossyQueue, lost_answers: int) -> None:
    fill(queue, 4)
    process = Process(queue, threads=2)
    first, second = process.run()
    process.finish(first, make("follower"))
    queue.lost_answers = lost_answers
    for _ in range(lost_answers):
        with pytest.raises(QueueUnavailable):
            process.run()
        # What is handed in meanwhile waits for its turn.
        if second.job.id in ids(process.leases.all()) and process.idle.busy == 2:
            process.finish(second)
    again = process.run()
    assert ids(again) == ["j00002"]
    assert ids(process.run()) == ["j00003"]
    assert queue.find("j00000") is None
    assert queue.find("j00001") is None
    assert figures(queue) == (1, 2)
    assert process.idle.busy == 2


def test_jobs_of_a_lost_answer_are_given_back_when_the_process_stops(queue: LossyQueue) -> None:
    fill(queue, 3)
    process = Process(queue, threads=3)
    queue.lost_answers = 1
    with pytest.raises(QueueUnavailable):
        process.run()
    assert figures(queue) == (0, 3)
    process.exchange.abandon()
    assert figures(queue) == (3, 0)
    assert process.idle.busy == 0
    assert [acquired.attempt for acquired in queue.acquire("p", 3, worker="w", request_id="r").jobs] == [1, 1, 1]


def test_one_finish_that_cannot_be_done_does_not_take_the_others_along(queue: LossyQueue, redis: Redis) -> None:
    fill(queue, 3)
    process = Process(queue, threads=3)
    running = process.run()
    redis.delete("{cloudify}:job:j00001")
    redis.set("{cloudify}:job:j00001", "not a hash")
    for lease in running:
        process.finish(lease)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        process.run()
    assert redis.keys("{cloudify}:job:*") == [b"{cloudify}:job:j00001"]
    assert process.leases.all() == []
    assert process.idle.busy == 0
    redis.delete("{cloudify}:job:j00001")
    fill(queue, 1)
    assert ids(process.run()) == ["j00000"]


def test_a_process_that_dies_with_finishes_unsent_has_them_run_again(redis: Redis) -> None:
    redis.set(CLOCK, 1_800_000_000_000)
    queue = RedisJobQueue(redis, lease_seconds=30, clock_key=CLOCK)
    fill(queue, 3, max_attempts=2)
    process = Process(queue, threads=3)
    running = process.run()
    for lease in running:
        process.finish(lease)
    # Nothing was sent. The next process gets all three, as second attempts; what the dead one had to say is refused.
    redis.incrby(CLOCK, 31_000)
    inherited = Process(queue, threads=3).run()
    assert [(lease.job.id, lease.attempt) for lease in inherited] == [(f"j{n:05}", 2) for n in range(3)]
    process.exchange.send_finished()
    assert [queue.find(f"j{n:05}") for n in range(3)] == ["running"] * 3


def test_finishes_that_no_consumer_sends_are_sent_when_they_are_overdue(queue: LossyQueue) -> None:
    fill(queue, 1)
    process = Process(queue, threads=1)
    [lease] = process.run()
    handed_in = time.monotonic()
    process.finish(lease)
    process.exchange.send_overdue()
    assert queue.find("j00000") == "running" or time.monotonic() - handed_in >= 1.0
    deadline, pause = time.monotonic() + TIMEOUT_SECONDS, threading.Event()
    while queue.find("j00000") is not None:
        assert time.monotonic() < deadline
        pause.wait(0.05)
        process.exchange.send_overdue()
    assert process.leases.all() == []


def test_finishes_are_applied_or_refused_one_by_one(queue: LossyQueue) -> None:
    fill(queue, 3)
    jobs = queue.acquire("p", 3, worker="w", request_id="r").jobs
    finishes = [encode_finish(entry.job.id, entry.token, Disposition.DONE) for entry in jobs]
    finishes[1][1] = jobs[1].token - 1
    assert queue.finish_many(finishes) == [True, False, True]
    assert queue.finish_many(finishes) == [False, False, False]
    assert queue.find("j00001") == "running"


def test_a_batch_may_be_larger_than_the_stack_of_lua(queue: LossyQueue) -> None:
    fill(queue, 9000)
    jobs = queue.acquire("p", 9000, worker="w", request_id="r").jobs
    assert ids(jobs) == [f"j{number:05}" for number in range(9000)]
    assert queue.acquire("p", 9000, worker="w", request_id="r").jobs == jobs
    assert all(queue.finish_many([encode_finish(entry.job.id, entry.token, Disposition.DONE) for entry in jobs]))
    assert figures(queue) == (0, 0)


def test_the_record_of_an_answered_request_is_dropped(queue: LossyQueue, redis: Redis) -> None:
    fill(queue, 8)
    process = Process(queue, threads=2)
    for _ in range(4):
        for lease in process.run():
            process.finish(lease)
    assert len(redis.keys("{cloudify}:request:*")) == 1


def test_enqueue_many_leaves_out_what_is_there_or_beyond_a_bound(redis: Redis) -> None:
    queue = RedisJobQueue(redis, maximum_depth=5, maximum_tenant_depth=3)
    jobs = [make(f"j{number}", tenant=f"t{number % 2}") for number in range(8)]
    assert queue.enqueue(jobs[0])
    assert enqueue_many(queue, [*jobs, *jobs]) == 4
    assert enqueue_many(queue, jobs) == 0
    assert len(queue.jobs_in_line("p")) == 5


def test_a_connection_that_broke_while_nobody_used_it_is_replaced(queue: LossyQueue, redis_url: str) -> None:
    queue.ping()
    with connect_redis(redis_url) as other:
        assert other.client_kill_filter(_type="normal", skipme=True) >= 1
    queue.ping()
    assert queue.enqueue(make("a"))


def test_a_redis_that_is_busy_for_a_while_counts_as_unreachable(
    queue: LossyQueue, redis: Redis, redis_url: str
) -> None:
    fill(queue, 1)
    process = Process(queue, threads=1)
    [lease] = process.run()
    process.finish(lease)
    redis.config_set("busy-reply-threshold", 1)
    endless = threading.Thread(target=run_endless_script, args=(redis_url,))
    endless.start()
    try:
        with pytest.raises(QueueUnavailable):
            ping_until_it_fails(queue)
        with pytest.raises(QueueUnavailable):
            process.run()
    finally:
        redis.execute_command("SCRIPT KILL")
        endless.join(TIMEOUT_SECONDS)
        redis.config_set("busy-reply-threshold", 5000)
    assert process.run() == []
    assert queue.find("j00000") is None


def run_endless_script(url: str) -> None:
    with connect_redis(url, timeout_seconds=TIMEOUT_SECONDS) as client, pytest.raises(ResponseError, match="killed"):
        client.eval("while true do end", 0)


def ping_until_it_fails(queue: RedisJobQueue) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        queue.ping()


def test_an_installation_bounds_what_a_plan_gives_a_tenant(redis: Redis) -> None:
    """Whatever brings the plan's limit to the queue: new jobs, successors, a change of the plan, a held slot."""
    queue = RedisJobQueue(redis, maximum_tenant_slots=2)

    def job(name: str, slot: str) -> Job:
        return Job(id=name, pool="p", actor="a", tenant_id="t", payload={}, slot=slot, tenant_limit=20)

    enqueue_many(queue, [job(f"j{number}", f"s{number}") for number in range(6)])
    queue.enqueue(job("j6", "s6"))
    first, second = queue.acquire("p", 10, worker="w", request_id="1").jobs
    assert not queue.acquire("p", 10, worker="w", request_id="2").jobs
    queue.set_tenant("t", limit=20, weight=1)
    assert not queue.acquire("p", 10, worker="w", request_id="3").jobs
    queue.finish(first.job.id, first.token, Disposition.DONE, next_jobs=[job("next", first.job.slot or "")])
    assert [each.job.id for each in queue.acquire("p", 10, worker="w", request_id="4").jobs] == ["next"]
    queue.hold_slot("t", second.job.slot or "", limit=20, weight=1)
    assert not queue.acquire("p", 10, worker="w", request_id="5").jobs
