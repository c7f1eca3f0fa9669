"""The contract of each operation of the queue, on a real Redis with a clock that the test moves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from schemas.messages import Job
from shared.queue.base import WORKER_LOST, CancelAnswer
from shared.queue.connection import connect_redis
from shared.queue.errors import QueueFull, QueueUnavailable
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import AcquiredJob, BeatAnswer, Disposition, WorkerRecord, WorkerState

pytestmark = pytest.mark.integration
CLOCK = "{cloudify}:test-clock"
START_MS = 1_800_000_000_000
LEASE = 30.0
_requests = itertools.count()


class Bench:
    """A queue and its clock."""

    def __init__(self, redis: Redis, **bounds: int) -> None:
        self.redis = redis
        redis.set(CLOCK, START_MS)
        self.queue = RedisJobQueue(redis, lease_seconds=LEASE, clock_key=CLOCK, **bounds)

    def advance(self, seconds: float) -> None:
        self.redis.incrby(CLOCK, int(seconds * 1000))

    def acquire(self, pool: str = "clone", count: int = 1, *, worker: str = "w") -> list[AcquiredJob]:
        return list(self.queue.acquire(pool, count, worker=worker, request_id=f"r{next(_requests)}").jobs)

    def one(self, pool: str = "clone") -> AcquiredJob:
        [acquired] = self.acquire(pool)
        return acquired

    def finish(self, acquired: AcquiredJob, disposition: Disposition = Disposition.DONE, **more: Any) -> bool:
        return self.queue.finish(acquired.job.id, acquired.token, disposition, **more)

    def stats(self, pool: str = "clone") -> Any:
        return next(row for row in self.queue.stats() if row.pool == pool)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url, timeout_seconds=60) as client:
        yield client


@pytest.fixture
def bench(redis: Redis) -> Bench:
    return Bench(redis)


def make(job_id: str, *, pool: str = "clone", tenant: str = "t1", slot: str | None = None, **more: Any) -> Job:
    return Job(id=job_id, pool=pool, actor="run_stage", tenant_id=tenant, payload={"n": job_id}, slot=slot, **more)


def ids(acquired: list[AcquiredJob]) -> list[str]:
    return [entry.job.id for entry in acquired]


def test_a_job_comes_out_as_it_went_in_with_its_place_in_line(bench: Bench) -> None:
    job = make("a", slot="d1", priority=3, tenant_limit=2, max_attempts=4, traceparent="00-1-2-01")
    assert bench.queue.enqueue(job)
    acquired = bench.one()
    assert acquired.job == Job(**{**{f: getattr(job, f) for f in job.__struct_fields__}, "enqueued_at_ms": START_MS})
    assert (acquired.attempt, acquired.is_cancelled) == (1, False)
    assert acquired.token == START_MS * 1000


def test_enqueue_is_idempotent_while_the_job_waits_is_delayed_or_runs(bench: Bench) -> None:
    assert bench.queue.enqueue(make("a"))
    assert not bench.queue.enqueue(make("a", priority=0))
    assert bench.queue.enqueue(make("b"), delay_seconds=5)
    assert not bench.queue.enqueue(make("b"))
    acquired = bench.one()
    assert not bench.queue.enqueue(make("a"))
    bench.finish(acquired)
    assert bench.queue.find("a") is None
    assert bench.queue.enqueue(make("a"))


def test_a_job_tells_how_long_it_was_in_line_each_time(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    bench.advance(7)
    first = bench.one()
    assert first.waited_seconds == 7
    bench.advance(3)
    bench.finish(first, Disposition.RETRY, delay_seconds=20)
    bench.advance(25)
    second = bench.one()
    # Since it was due; neither the run nor the delay is a wait.
    assert second.waited_seconds == 5
    bench.advance(1)
    bench.finish(second, Disposition.RELEASE)
    bench.advance(2)
    assert bench.one().waited_seconds == 2


def test_a_repeated_request_tells_the_same_wait(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    bench.advance(4)
    [first] = bench.queue.acquire("clone", 1, worker="w", request_id="same").jobs
    bench.advance(2)
    [again] = bench.queue.acquire("clone", 1, worker="w", request_id="same").jobs
    assert (first.waited_seconds, again.waited_seconds) == (4, 4)


def test_order_is_by_priority_with_ageing(bench: Bench) -> None:
    bench.queue.enqueue(make("old-low", priority=6))
    bench.advance(99)
    bench.queue.enqueue(make("one-level-better-99s-later", priority=5))
    bench.advance(2)
    bench.queue.enqueue(make("one-level-better-101s-later", priority=5))
    bench.queue.enqueue(make("urgent", priority=0))
    assert ids(bench.acquire(count=9)) == [
        "urgent", "one-level-better-99s-later", "old-low", "one-level-better-101s-later",
    ]  # fmt: skip


def test_the_limit_is_never_exceeded_and_a_freed_slot_is_used(bench: Bench) -> None:
    for n in range(4):
        bench.queue.enqueue(make(f"j{n}", slot=f"d{n}", tenant_limit=2))
        bench.advance(0.001)
    first = bench.acquire(count=10)
    assert ids(first) == ["j0", "j1"]
    assert bench.queue.running_set("t1") == {"d0", "d1"}
    assert bench.stats().waiting_for_slot == 2
    bench.finish(first[0])
    assert bench.stats().waiting_for_slot == 0
    assert ids(bench.acquire(count=10)) == ["j2"]
    assert bench.queue.running_set("t1") == {"d1", "d2"}
    assert bench.redis.type("{cloudify}:build:active:t1") == b"set"


def test_later_stages_keep_the_slot_and_need_none(bench: Bench) -> None:
    bench.queue.enqueue(make("d1:clone", slot="d1"))
    bench.queue.enqueue(make("d2:clone", slot="d2"))
    acquired = bench.one()
    assert bench.finish(acquired, next_jobs=[make("d1:install", pool="install", slot="d1")])
    assert bench.queue.running_set("t1") == {"d1"}
    assert bench.acquire("clone") == []
    last = bench.one("install")
    assert last.job.id == "d1:install"
    bench.finish(last)
    assert bench.queue.running_set("t1") == set()
    assert bench.queue.tenants_with_slots() == set()
    assert bench.one().job.id == "d2:clone"


def test_work_without_a_slot_never_waits_behind_builds(bench: Bench) -> None:
    bench.queue.enqueue(make("build", slot="d1"))
    bench.queue.enqueue(make("blocked", slot="d2"))
    bench.acquire()
    bench.queue.enqueue(make("rollback"))
    assert ids(bench.acquire(count=5)) == ["rollback"]


def test_two_jobs_of_one_slot_share_it(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    bench.queue.enqueue(make("b", slot="d1"))
    first, second = bench.acquire(count=5)
    bench.finish(first)
    assert bench.queue.running_set("t1") == {"d1"}
    bench.finish(second)
    assert bench.queue.running_set("t1") == set()


def test_a_retry_waits_in_redis_keeps_slot_and_place_and_counts(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1", max_attempts=3))
    bench.advance(1)
    bench.queue.enqueue(make("b"))
    bench.finish(bench.one(), Disposition.RETRY, delay_seconds=10)
    assert bench.queue.find("a") == "delayed"
    assert bench.queue.running_set("t1") == {"d1"}
    assert ids(bench.acquire()) == ["b"]
    assert bench.acquire() == []
    bench.queue.enqueue(make("c"))
    bench.advance(10)
    acquired = bench.one()
    assert (acquired.job.id, acquired.attempt, acquired.job.enqueued_at_ms) == ("a", 2, START_MS)


def test_release_refunds_the_attempt_and_returns_to_the_old_place(bench: Bench) -> None:
    bench.queue.enqueue(make("a", max_attempts=1))
    bench.advance(1)
    bench.queue.enqueue(make("b"))
    for _ in range(3):
        acquired = bench.one()
        assert (acquired.job.id, acquired.attempt) == ("a", 1)
        assert bench.finish(acquired, Disposition.RELEASE)


def test_a_job_that_waits_for_its_slot_keeps_its_place_and_attempt_and_gives_the_slot_up(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1", max_attempts=1))
    bench.advance(1)
    bench.queue.enqueue(make("b", slot="d2"))
    acquired = bench.one()
    assert bench.finish(acquired, Disposition.WAIT)
    assert bench.queue.running_set("t1") == set()
    assert bench.queue.tenants_with_slots() == set()
    again = bench.one()
    assert (again.job.id, again.attempt) == ("a", 1)
    # The place belongs to another, which only the caller knows: nothing is handed out until that one is over.
    bench.queue.hold_slot("t1", "d0", limit=1, weight=1)
    assert bench.finish(again, Disposition.WAIT)
    assert bench.queue.running_set("t1") == {"d0"}
    assert bench.acquire(count=9) == []
    bench.queue.free_slot("t1", "d0")
    assert ids(bench.acquire(count=9)) == ["a"]


def test_a_slot_that_another_job_has_is_not_given_up(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    first = bench.one()
    bench.queue.enqueue(make("a2", slot="d1"))
    assert bench.finish(first, Disposition.WAIT)
    assert bench.queue.running_set("t1") == {"d1"}
    assert ids(bench.acquire(count=9)) == ["a", "a2"]


def test_an_expired_lease_returns_to_its_old_place_and_is_dead_after_the_last_attempt(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1", max_attempts=2))
    bench.advance(1)
    bench.queue.enqueue(make("b"))
    stale = bench.one()
    bench.advance(LEASE - 0.001)
    assert bench.queue.sweep() == 0
    bench.advance(0.001)
    again = bench.one()
    assert (again.job.id, again.attempt) == ("a", 2)
    assert again.token > stale.token
    assert not bench.finish(stale)
    assert bench.queue.beat([("a", stale.token), ("a", again.token)]) == [BeatAnswer.LOST, BeatAnswer.RENEWED]
    bench.advance(LEASE)
    assert bench.queue.sweep() == 1
    assert bench.queue.find("a") == "dead"
    assert bench.queue.running_set("t1") == set()
    [letter] = bench.queue.dead_letters("clone")
    assert (letter.job.id, letter.attempts, letter.reason) == ("a", 2, "lease_expired")
    assert letter.job.slot == "d1"


def test_a_dead_workers_jobs_return_at_once_to_their_old_places(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1", max_attempts=5))
    bench.advance(1)
    bench.queue.enqueue(make("b"))
    bench.queue.register_worker(WorkerRecord("clone", "w", 1, 1), expires_seconds=60)
    stale = bench.one()
    assert bench.queue.hand_back("clone", "another", counts=True).returned == 0
    assert bench.queue.hand_back("install", "w", counts=True).returned == 0
    assert bench.queue.find("a") == "running"
    # No time passes: the lease isn't waited for.
    assert bench.queue.hand_back("clone", "w", counts=False).returned == 1
    assert bench.queue.workers() == []
    assert bench.queue.hand_back("clone", "w", counts=False).returned == 0
    again = bench.one()
    assert (again.job.id, again.attempt) == ("a", 2)
    assert again.token > stale.token
    assert not bench.finish(stale)
    assert bench.finish(again)
    assert bench.queue.running_set("t1") == set()


def test_the_second_death_that_counts_is_a_jobs_last(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1", max_attempts=9))
    for counts in (False, True, False):
        bench.one()
        assert bench.queue.hand_back("clone", "w", counts=counts).lost == ()
    # Neither a lease that expires nor a retry is such a death.
    bench.one()
    bench.advance(LEASE)
    bench.finish(bench.one(), Disposition.RETRY)
    assert bench.queue.death_reason("a") is None
    bench.one()
    assert bench.queue.hand_back("clone", "w", counts=True).lost == ("a",)
    assert bench.queue.death_reason("a") == WORKER_LOST
    assert bench.queue.running_set("t1") == set()
    assert bench.acquire() == []
    # An operator who gives it another life gives it a whole one.
    assert bench.queue.requeue_dead("a")
    bench.one()
    assert bench.queue.hand_back("clone", "w", counts=True).lost == ()


def test_a_hand_back_is_no_way_around_the_most_attempts(bench: Bench) -> None:
    bench.queue.enqueue(make("a", max_attempts=1))
    bench.one()
    assert bench.queue.hand_back("clone", "w", counts=True).returned == 0
    assert bench.queue.death_reason("a") == "lease_expired"


def test_a_beat_renews(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    acquired = bench.one()
    for _ in range(5):
        bench.advance(LEASE - 1)
        assert bench.queue.beat([("a", acquired.token)]) == [BeatAnswer.RENEWED]
    assert bench.queue.sweep() == 0
    assert bench.finish(acquired)


def test_tokens_grow_even_when_redis_loses_everything(bench: Bench) -> None:
    tokens = []
    for n in range(5):
        bench.queue.enqueue(make(f"j{n}"))
    tokens += [entry.token for entry in bench.acquire(count=5)]
    now = bench.redis.get(CLOCK)
    bench.redis.flushall()
    bench.redis.set(CLOCK, int(now) + 1)
    assert bench.queue.beat([("j0", tokens[0])]) == [BeatAnswer.LOST]
    assert not bench.queue.finish("j0", tokens[0], Disposition.DONE)
    bench.queue.enqueue(make("j0"))
    tokens.append(bench.one().token)
    assert tokens == sorted(set(tokens))


def test_acquire_is_replayable(bench: Bench) -> None:
    for n in range(3):
        bench.queue.enqueue(make(f"j{n}", slot=f"d{n}", tenant_limit=3))
    first = bench.queue.acquire("clone", 2, worker="w", request_id="same")
    assert bench.queue.acquire("clone", 2, worker="w", request_id="same").jobs == first.jobs
    bench.finish(first.jobs[0])
    assert bench.queue.acquire("clone", 2, worker="w", request_id="same").jobs == first.jobs[1:]
    assert bench.stats().inflight == 1
    assert bench.stats().depth == 1


def test_finish_is_refused_the_second_time_and_enqueues_once(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    acquired = bench.one()
    following = [make("b", pool="install")]
    assert bench.finish(acquired, next_jobs=following)
    assert not bench.finish(acquired, next_jobs=following)
    assert bench.stats("install").depth == 1


def test_tenants_share_by_weight_and_none_banks_credit(bench: Bench) -> None:
    for n in range(200):
        bench.queue.enqueue(make(f"big{n}", tenant="big", tenant_weight=1))
    served = [entry.job.tenant_id for _ in range(50) for entry in bench.acquire()]
    assert set(served) == {"big"}
    for n in range(60):
        bench.queue.enqueue(make(f"late{n}", tenant="late", tenant_weight=2))
    # The newcomer is next, and then has two of three, not all until it has caught up with the other's 50.
    order = [entry.job.tenant_id for _ in range(30) for entry in bench.acquire()]
    assert "late" in order[:2]
    assert 18 <= order.count("late") <= 22


def test_a_blocked_tenant_stands_in_nobodys_way(bench: Bench) -> None:
    for n in range(5):
        bench.queue.enqueue(make(f"x{n}", tenant="blocked", slot=f"x{n}", priority=0))
    bench.acquire()
    bench.queue.enqueue(make("other", tenant="free", slot="y", priority=9))
    assert ids(bench.acquire(count=9)) == ["other"]
    assert bench.redis.zrange("{cloudify}:queue:clone:eligible", 0, -1) == []


def test_raising_a_limit_takes_effect_at_once_and_lowering_ends_nothing(bench: Bench) -> None:
    for n in range(4):
        bench.queue.enqueue(make(f"j{n}", slot=f"d{n}", tenant_limit=1))
    running = bench.acquire(count=4)
    assert len(running) == 1
    bench.queue.set_tenant("t1", limit=3, weight=1)
    running += bench.acquire(count=4)
    assert len(running) == 3
    bench.queue.set_tenant("t1", limit=1, weight=1)
    assert len(bench.queue.running_set("t1")) == 3
    bench.finish(running[0])
    bench.finish(running[1])
    assert bench.acquire(count=4) == []
    bench.finish(running[2])
    assert ids(bench.acquire(count=4)) == ["j3"]


def test_cancel_of_a_waiting_job_removes_it(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    bench.queue.enqueue(make("b"), delay_seconds=60)
    assert bench.queue.cancel("a") is CancelAnswer.REMOVED
    assert bench.queue.cancel("b") is CancelAnswer.REMOVED
    assert bench.queue.cancel("a") is CancelAnswer.UNKNOWN
    bench.advance(61)
    assert bench.acquire(count=9) == []
    assert set(bench.redis.keys("{cloudify}:job:*")) == set()


def test_a_cancelled_job_may_leave_its_slot_until_it_is_freed(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    bench.queue.enqueue(make("b", slot="d2"))
    bench.finish(bench.one(), Disposition.RETRY, delay_seconds=60)
    assert bench.queue.cancel("a", keeps_slot=True) is CancelAnswer.REMOVED
    assert bench.queue.running_set("t1") == {"d1"}
    assert bench.acquire() == []
    bench.queue.free_slot("t1", "d1")
    assert ids(bench.acquire()) == ["b"]


def test_cancel_of_a_job_that_waits_for_its_retry_frees_the_slot(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    bench.queue.enqueue(make("b", slot="d2"))
    bench.finish(bench.one(), Disposition.RETRY, delay_seconds=60)
    assert bench.queue.running_set("t1") == {"d1"}
    assert bench.queue.cancel("a") is CancelAnswer.REMOVED
    assert bench.queue.running_set("t1") == set()
    assert ids(bench.acquire()) == ["b"]


def test_cancel_of_a_running_job_is_reported_by_the_beat_and_survives_a_crash(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    acquired = bench.one()
    assert bench.queue.cancel("a") is CancelAnswer.SIGNALLED
    assert bench.queue.cancel("a") is CancelAnswer.SIGNALLED
    assert bench.queue.beat([("a", acquired.token)]) == [BeatAnswer.CANCELLED]
    bench.advance(LEASE)
    again = bench.one()
    assert again.is_cancelled
    assert bench.finish(again)
    assert bench.queue.running_set("t1") == set()


def test_a_dead_letter_can_be_requeued_or_dropped(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1", max_attempts=1))
    bench.finish(bench.one(), Disposition.RETRY, reason="ValueError: no")
    [letter] = bench.queue.dead_letters("clone")
    assert letter.reason == "ValueError: no"
    assert bench.queue.running_set("t1") == set()
    assert bench.queue.requeue_dead("a")
    assert not bench.queue.requeue_dead("a")
    acquired = bench.one()
    assert acquired.attempt == 1
    assert bench.queue.running_set("t1") == {"d1"}
    bench.finish(acquired, Disposition.DEAD, reason="unknown actor")
    assert bench.queue.drop_dead("a")
    assert not bench.queue.drop_dead("a")
    assert bench.queue.find("a") is None


def test_enqueue_replaces_a_dead_letter_of_the_same_id(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    bench.finish(bench.one(), Disposition.DEAD)
    assert bench.queue.enqueue(make("a"))
    assert bench.queue.find("a") == "ready"
    assert bench.stats().dead == 0


def test_pause_stops_handing_out_and_resume_rings(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    bench.queue.pause("clone")
    assert bench.acquire() == []
    assert bench.stats().is_paused
    explained = bench.queue.explain("a")
    assert explained is not None
    assert explained.reason == "paused"
    with bench.redis.pubsub() as subscription:
        subscription.subscribe("build:new")
        assert subscription.get_message(timeout=60)["type"] == "subscribe"
        bench.queue.resume("clone")
        assert subscription.get_message(timeout=60)["data"] == b"clone"
    assert ids(bench.acquire()) == ["a"]


def test_a_paused_tenant_waits_in_all_pools(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    bench.queue.enqueue(make("b", pool="install"))
    bench.queue.enqueue(make("c", tenant="t2"))
    bench.queue.pause_tenant("t1")
    assert ids(bench.acquire(count=9)) == ["c"]
    assert bench.acquire("install") == []
    bench.queue.resume_tenant("t1")
    assert ids(bench.acquire(count=9)) == ["a"]
    assert ids(bench.acquire("install")) == ["b"]


def test_a_notification_is_published_once_for_a_pool_that_turns_from_nothing_to_something(bench: Bench) -> None:
    with bench.redis.pubsub() as subscription:
        subscription.subscribe("build:new")
        assert subscription.get_message(timeout=60)["type"] == "subscribe"
        for n in range(3):
            bench.queue.enqueue(make(f"j{n}"))
        bench.queue.enqueue(make("k", pool="install"))
        assert subscription.get_message(timeout=60)["data"] == b"clone"
        assert subscription.get_message(timeout=60)["data"] == b"install"


def test_explain_gives_position_holders_and_reason(bench: Bench) -> None:
    bench.queue.enqueue(make("a", slot="d1"))
    reasons = bench.queue.explain("a")
    assert reasons is not None
    assert (reasons.reason, reasons.position) == ("no_workers", 1)
    bench.queue.register_worker(WorkerRecord("clone", "w", 4, 1), expires_seconds=15)
    assert bench.queue.workers() == [WorkerRecord("clone", "w", 4, 1)]
    reasons = bench.queue.explain("a")
    assert reasons is not None
    assert (reasons.reason, reasons.position) == ("pool_busy", 1)
    paused = WorkerRecord("clone", "w", 4, 1, host="h", version="1", state=WorkerState.PAUSED, reason="It failed.")
    bench.queue.register_worker(paused, expires_seconds=15)
    assert bench.queue.workers() == [paused]
    reasons = bench.queue.explain("a")
    assert reasons is not None
    assert reasons.reason == "no_workers"
    bench.queue.register_worker(WorkerRecord("clone", "w", 4, 1), expires_seconds=15)
    acquired = bench.one()
    bench.advance(0.001)
    bench.queue.enqueue(make("b", slot="d2"))
    bench.advance(0.001)
    bench.queue.enqueue(make("c", slot="d3"))
    blocked = bench.queue.explain("c")
    assert blocked is not None
    assert (blocked.reason, blocked.position, blocked.holders) == ("plan_limit", 2, ("d1",))
    running = bench.queue.explain("a")
    assert running is not None
    assert running.reason == "running"
    bench.advance(20)
    bench.queue.beat([("a", acquired.token)])
    bench.finish(acquired)
    bench.queue.register_worker(WorkerRecord("clone", "w", 4, 1), expires_seconds=15)
    bench.one()
    estimated = bench.queue.explain("c")
    assert estimated is not None
    assert estimated.reason == "plan_limit"
    assert estimated.estimated_start_seconds is not None
    low, high = estimated.estimated_start_seconds
    assert 0 < low <= 20 <= high
    bench.queue.enqueue(make("e"), delay_seconds=7)
    delayed = bench.queue.explain("e")
    assert delayed is not None
    assert delayed.reason == "delayed"
    assert bench.queue.explain("nothing") is None
    bench.advance(16)
    assert bench.queue.workers() == []


def test_processes_of_other_roles_are_no_workers_of_a_pool(bench: Bench) -> None:
    api = WorkerRecord("api", "host-1", 40, 0, host="host", version="1")
    bench.queue.register_worker(api, expires_seconds=15)
    assert bench.queue.other_processes() == [api]
    assert bench.queue.workers() == []
    assert bench.queue.stats() == []
    bench.queue.unregister_worker("api", "host-1")
    assert bench.queue.other_processes() == []


def test_a_retry_prefers_another_worker_for_a_while(bench: Bench) -> None:
    for worker in ("w", "other"):
        bench.queue.register_worker(WorkerRecord("clone", worker, 4, 0), expires_seconds=60)
    for name in ("a", "b"):
        bench.queue.enqueue(make(name, tenant="t1", slot=f"d-{name}", tenant_limit=2))
    bench.queue.enqueue(make("c", tenant="t2"))
    failed = {job.job.id: job for job in bench.acquire(count=3)}
    for name in ("a", "c"):
        assert bench.finish(failed[name], Disposition.RETRY)
    assert bench.acquire(count=3) == []
    # What comes behind them isn't held up.
    bench.queue.enqueue(make("d", tenant="t1", tenant_limit=2))
    assert [job.job.id for job in bench.acquire(count=3)] == ["d"]
    assert set(ids(bench.acquire(worker="other"))) < {"a", "c"}
    bench.advance(10.001)
    assert len(bench.acquire(count=3)) == 1


def test_a_retry_runs_at_the_same_worker_if_no_other_takes_jobs(bench: Bench) -> None:
    bench.queue.register_worker(WorkerRecord("clone", "w", 4, 0), expires_seconds=60)
    bench.queue.register_worker(WorkerRecord("clone", "v", 4, 0, state=WorkerState.PAUSED), expires_seconds=60)
    bench.queue.enqueue(make("a"))
    assert bench.finish(bench.one(), Disposition.RETRY)
    again = bench.one()
    assert (again.job.id, again.attempt) == ("a", 2)


def test_a_full_queue_refuses_and_changes_nothing(redis: Redis) -> None:
    bench = Bench(redis, maximum_depth=3, maximum_tenant_depth=2)
    assert bench.queue.enqueue(make("a"))
    assert bench.queue.enqueue(make("b"), delay_seconds=5)
    with pytest.raises(QueueFull, match="this account"):
        bench.queue.enqueue(make("c"))
    assert not bench.queue.enqueue(make("a"))
    assert bench.queue.enqueue(make("d", tenant="t2"))
    with pytest.raises(QueueFull, match="clone") as full:
        bench.queue.enqueue(make("e", tenant="t3"))
    assert full.value.retry_after_seconds > 0
    assert bench.queue.find("e") is None
    acquired = bench.one()
    assert bench.queue.enqueue(make("e", tenant="t3"))
    # What follows a running job is never refused.
    assert bench.finish(acquired, next_jobs=[make("f"), make("g")])
    assert bench.queue.find("g") == "ready"


def test_a_slot_held_for_the_rebuild_counts_and_is_freed_only_when_no_job_has_it(bench: Bench) -> None:
    bench.queue.hold_slot("t1", "d1", limit=1, weight=1)
    bench.queue.hold_slot("t1", "d2", limit=1, weight=1)
    assert bench.queue.running_set("t1") == {"d1", "d2"}
    assert bench.queue.tenants_with_slots() == {"t1"}
    bench.queue.enqueue(make("new", slot="d3"))
    bench.queue.enqueue(make("held", slot="d1"))
    acquired = bench.one()
    assert acquired.job.id == "held"
    bench.queue.free_slot("t1", "d1")
    assert bench.queue.running_set("t1") == {"d1", "d2"}
    bench.queue.free_slot("t1", "d2")
    bench.finish(acquired)
    assert bench.queue.running_set("t1") == set()
    assert ids(bench.acquire()) == ["new"]


def test_a_job_in_line_gets_its_slot_with_hold_slot(bench: Bench) -> None:
    bench.queue.enqueue(make("blocker", slot="d0"))
    bench.acquire()
    bench.queue.enqueue(make("a", slot="d1"))
    assert bench.acquire() == []
    bench.queue.hold_slot("t1", "d1", limit=1, weight=1)
    assert ids(bench.acquire()) == ["a"]


def test_acquire_says_when_to_look_again(bench: Bench) -> None:
    assert bench.queue.acquire("clone", 1, worker="w", request_id="r").next_due_seconds is None
    bench.queue.enqueue(make("a"), delay_seconds=7)
    assert bench.queue.acquire("clone", 1, worker="w", request_id="r").next_due_seconds == 7
    bench.queue.enqueue(make("b"))
    batch = bench.queue.acquire("clone", 1, worker="w", request_id="r")
    assert batch.next_due_seconds == 7


def test_scripts_are_loaded_again_when_redis_forgot_them(bench: Bench) -> None:
    bench.queue.enqueue(make("a"))
    bench.redis.script_flush()
    assert ids(bench.acquire()) == ["a"]


def test_names_that_would_break_keys_are_refused(bench: Bench) -> None:
    for job in (make("a", tenant="x:y"), make("a", pool="x y"), make(""), make("a", priority=10)):
        with pytest.raises(ValueError, match=r"."):
            bench.queue.enqueue(job)
    with pytest.raises(ValueError, match="limit"):
        bench.queue.set_tenant("t", limit=-1, weight=1)


def test_an_unreachable_redis_is_reported_clearly() -> None:
    with connect_redis("redis://127.0.0.1:1/0") as client:
        with pytest.raises(QueueUnavailable, match="can't be reached"):
            RedisJobQueue(client).ping()


def test_nothing_is_left_when_all_is_done(bench: Bench) -> None:
    for n in range(6):
        bench.queue.enqueue(make(f"j{n}", slot=f"d{n}", tenant=f"t{n % 2}", tenant_limit=2))
    while acquired := bench.acquire(count=3):
        for entry in acquired:
            bench.finish(entry)
    bench.queue.sweep()
    left = {key.decode() for key in bench.redis.keys("{cloudify}:*")}
    kept = ("request:", "tenant:t0", "tenant:t1", "fence", "pools", "statistics", "queue:clone:state", "test-clock")
    served = "queue:clone:served"
    assert {key for key in left if not key.removeprefix("{cloudify}:").startswith((*kept, served))} == set()
