"""The queue against a model of it: any sequence of operations, the invariants after each one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from schemas.messages import Job
from shared.queue.base import CancelOutcome
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import BeatAnswer, Outcome

pytestmark = pytest.mark.integration
CLOCK = "{cloudify}:test-clock"
LEASE_MS = 10_000
POOLS = ("clone", "install")
TENANTS = ("t1", "t2", "t3")

# A long run (CLOUDIFY_QUEUE_EXAMPLES) also shrinks what it finds, which takes minutes.
_EXAMPLES = int(os.environ.get("CLOUDIFY_QUEUE_EXAMPLES", "0"))
settings.register_profile(
    "queue",
    max_examples=_EXAMPLES or 60,
    stateful_step_count=50,
    deadline=None,
    phases=list(Phase) if _EXAMPLES else [Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Entry:
    """A job in the model. `place`: ready, delayed, running or dead; `until`: when it is due or its lease expires."""

    job: Job
    score: int
    place: str = "ready"
    until: int = 0
    attempts: int = 0
    token: int = 0
    is_cancelled: bool = False


@dataclass
class Model:
    now: int = 1_800_000_000_000
    entries: dict[str, Entry] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    slots: dict[str, set[str]] = field(default_factory=lambda: {tenant: set() for tenant in TENANTS})
    paused_pools: set[str] = field(default_factory=set)
    paused_tenants: set[str] = field(default_factory=set)

    def free_unused_slots(self, held: set[tuple[str, str]]) -> None:
        for tenant, slots in self.slots.items():
            live = {e.job.slot for e in self.entries.values() if e.job.tenant_id == tenant and e.place != "dead"}
            slots -= {slot for slot in slots if slot not in live and (tenant, slot) not in held}

    def needs_slot(self, entry: Entry) -> bool:
        return entry.job.slot is not None and entry.job.slot not in self.slots[entry.job.tenant_id]

    def has_free_slot(self, tenant: str) -> bool:
        return len(self.slots[tenant]) < self.limits.get(tenant, 1)

    def candidates(self, pool: str, tenant: str) -> list[Entry]:
        """What may be handed out now, by score."""
        if tenant in self.paused_tenants or pool in self.paused_pools:
            return []
        return sorted(
            (
                entry
                for entry in self.entries.values()
                if entry.place == "ready" and entry.job.pool == pool and entry.job.tenant_id == tenant
                and (not self.needs_slot(entry) or self.has_free_slot(tenant))
            ),
            key=lambda entry: (entry.score, entry.job.id),
        )  # fmt: skip

    def sweep(self, pool: str | None) -> None:
        for entry in self.entries.values():
            if pool in (None, entry.job.pool) and entry.place in ("delayed", "running") and entry.until <= self.now:
                is_dead = entry.place == "running" and entry.attempts >= entry.job.max_attempts
                entry.place = "dead" if is_dead else "ready"


class QueueMachine(RuleBasedStateMachine):
    redis: Redis
    requests = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.model = Model()
        self.redis.set(CLOCK, self.model.now)
        self.queue = RedisJobQueue(self.redis, lease_seconds=LEASE_MS / 1000, clock_key=CLOCK)
        self.names = itertools.count()
        self.greatest_token = 0
        self.stale: list[tuple[str, int]] = []
        self.held: set[tuple[str, str]] = set()
        self.counts = dict.fromkeys(("in", "done", "dropped"), 0)

    def _pick(self, place: str, index: int) -> Entry | None:
        entries = sorted((e for e in self.model.entries.values() if e.place == place), key=lambda e: e.job.id)
        return entries[index % len(entries)] if entries else None

    def _make(self, pool: str, tenant: str, slot: int | None, priority: int, limit: int, attempts: int) -> Job:
        return Job(
            id=f"j{next(self.names):04}", pool=pool, actor="a", tenant_id=tenant, payload={},
            slot=None if slot is None else f"{tenant}-d{slot}", priority=priority, tenant_limit=limit,
            tenant_weight=1 + TENANTS.index(tenant), max_attempts=attempts,
        )  # fmt: skip

    def _insert(self, job: Job, delay_ms: int) -> None:
        self.model.limits[job.tenant_id] = job.tenant_limit
        entry = Entry(job, self.model.now + job.priority * 100_000)
        if delay_ms:
            entry.place, entry.until = "delayed", self.model.now + delay_ms
        self.model.entries[job.id] = entry
        self.counts["in"] += 1
        # A slot that was held for no job goes with the job from now on.
        self.held.discard((job.tenant_id, job.slot or ""))

    jobs = st.tuples(
        st.sampled_from(POOLS), st.sampled_from(TENANTS), st.none() | st.integers(0, 4), st.integers(0, 9),
        st.integers(0, 3), st.integers(1, 3),
    )  # fmt: skip

    @rule(shape=jobs, delay_ms=st.sampled_from([0, 0, 0, 3000]))
    def enqueue(self, shape: tuple[str, str, int | None, int, int, int], delay_ms: int) -> None:
        job = self._make(*shape)
        assert self.queue.enqueue(job, delay_seconds=delay_ms / 1000)
        self._insert(job, delay_ms)
        assert not self.queue.enqueue(job)

    @rule(pool=st.sampled_from(POOLS), count=st.integers(0, 4), is_replayed=st.booleans())
    def acquire(self, pool: str, count: int, is_replayed: bool) -> None:
        request = f"r{next(self.requests)}"
        batch = self.queue.acquire(pool, count, worker="w", request_id=request)
        self.model.sweep(pool)
        self.model.free_unused_slots(self.held)
        for acquired in batch.jobs:
            tenant = acquired.job.tenant_id
            entry = self.model.candidates(pool, tenant)[0]
            assert acquired.job.id == entry.job.id
            if entry.job.slot is not None:
                self.model.slots[tenant].add(entry.job.slot)
            entry.place, entry.until, entry.token = "running", self.model.now + LEASE_MS, acquired.token
            entry.attempts += 1
            assert acquired.attempt == entry.attempts <= entry.job.max_attempts
            assert acquired.is_cancelled == entry.is_cancelled
            assert acquired.token > self.greatest_token
            self.greatest_token = acquired.token
        # Work-conserving: less than asked for is answered only when nothing more can be handed out.
        if len(batch.jobs) < count:
            assert not any(self.model.candidates(pool, tenant) for tenant in TENANTS)
        if is_replayed and batch.jobs:
            assert self.queue.acquire(pool, count, worker="w", request_id=request).jobs == batch.jobs

    @rule(index=st.integers(0, 99), outcome=st.sampled_from(Outcome), delay_ms=st.sampled_from([0, 3000]), next_=jobs)
    def finish(
        self, index: int, outcome: Outcome, delay_ms: int, next_: tuple[str, str, int | None, int, int, int]
    ) -> None:
        entry = self._pick("running", index)
        if entry is None:
            return
        follower = None
        if outcome is Outcome.DONE and delay_ms:
            follower = self._make(next_[0], entry.job.tenant_id, None, *next_[3:])
            follower = Job(**{**{f: getattr(follower, f) for f in follower.__struct_fields__}, "slot": entry.job.slot})
        assert self.queue.finish(
            entry.job.id, entry.token, outcome, delay_seconds=delay_ms / 1000,
            next_jobs=[] if follower is None else [follower],
        )  # fmt: skip
        self.stale.append((entry.job.id, entry.token))
        if outcome is Outcome.DONE:
            del self.model.entries[entry.job.id]
            self.counts["done"] += 1
            if follower is not None:
                self._insert(follower, 0)
        elif outcome is Outcome.DEAD or (outcome is Outcome.RETRY and entry.attempts >= entry.job.max_attempts):
            entry.place = "dead"
        else:
            entry.attempts -= outcome is Outcome.RELEASE
            entry.place, entry.until = ("delayed", self.model.now + delay_ms) if delay_ms else ("ready", 0)
        self.model.free_unused_slots(self.held)

    @precondition(lambda self: self.stale)
    @rule(index=st.integers(0, 99), outcome=st.sampled_from(Outcome))
    def a_stale_worker_changes_nothing(self, index: int, outcome: Outcome) -> None:
        job_id, token = self.stale[index % len(self.stale)]
        assert not self.queue.finish(job_id, token, outcome)
        assert self.queue.beat([(job_id, token)]) == [BeatAnswer.LOST]

    @rule(index=st.integers(0, 99))
    def beat(self, index: int) -> None:
        entry = self._pick("running", index)
        if entry is None:
            return
        [answer] = self.queue.beat([(entry.job.id, entry.token)])
        assert answer is (BeatAnswer.CANCELLED if entry.is_cancelled else BeatAnswer.RENEWED)
        entry.until = self.model.now + LEASE_MS

    @rule(place=st.sampled_from(["ready", "delayed", "running", "dead"]), index=st.integers(0, 99))
    def cancel(self, place: str, index: int) -> None:
        entry = self._pick(place, index)
        if entry is None:
            assert self.queue.cancel("nothing") is CancelOutcome.UNKNOWN
            return
        outcome = self.queue.cancel(entry.job.id)
        if place == "running":
            assert outcome is CancelOutcome.SIGNALLED
            entry.is_cancelled = True
            return
        assert outcome is CancelOutcome.REMOVED
        del self.model.entries[entry.job.id]
        self.counts["dropped"] += 1
        self.model.free_unused_slots(self.held)

    @rule(milliseconds=st.sampled_from([1, 500, 3000, LEASE_MS]), is_swept=st.booleans())
    def time_passes(self, milliseconds: int, is_swept: bool) -> None:
        self.model.now = self.redis.incrby(CLOCK, milliseconds)
        if is_swept:
            expired = sum(e.place == "running" and e.until <= self.model.now for e in self.model.entries.values())
            assert self.queue.sweep() == expired
            self.model.sweep(None)
            self.model.free_unused_slots(self.held)

    @rule(shape=jobs, crashes=st.integers(1, 3))
    def a_worker_crashes_again_and_again(self, shape: tuple[str, str, int | None, int, int, int], crashes: int) -> None:
        self.enqueue(shape, 0)
        for _ in range(crashes):
            self.acquire(shape[0], 4, is_replayed=False)
            self.time_passes(LEASE_MS, is_swept=True)

    @rule(shape=jobs, index=st.integers(0, 99))
    def a_job_is_cancelled_while_it_waits_for_its_retry(
        self, shape: tuple[str, str, int | None, int, int, int], index: int
    ) -> None:
        self.enqueue(shape, 0)
        self.acquire(shape[0], 1, is_replayed=True)
        self.finish(index, Outcome.RETRY, 3000, shape)
        self.cancel("delayed", index)

    @rule(tenant=st.sampled_from(TENANTS), limit=st.integers(0, 4))
    def set_tenant(self, tenant: str, limit: int) -> None:
        self.queue.set_tenant(tenant, limit=limit, weight=1 + TENANTS.index(tenant))
        self.model.limits[tenant] = limit

    @rule(tenant=st.sampled_from(TENANTS), slot=st.integers(0, 4), limit=st.integers(0, 3))
    def hold_slot(self, tenant: str, slot: int, limit: int) -> None:
        self.queue.hold_slot(tenant, f"{tenant}-d{slot}", limit=limit, weight=1)
        self.model.limits[tenant] = limit
        self.model.slots[tenant].add(f"{tenant}-d{slot}")
        self.held.add((tenant, f"{tenant}-d{slot}"))
        live = any(e.job.slot == f"{tenant}-d{slot}" and e.place != "dead" for e in self.model.entries.values())
        if live:
            # From now on the job keeps it, and it goes with the job.
            self.held.discard((tenant, f"{tenant}-d{slot}"))

    @rule(tenant=st.sampled_from(TENANTS), slot=st.integers(0, 4))
    def free_slot(self, tenant: str, slot: int) -> None:
        self.queue.free_slot(tenant, f"{tenant}-d{slot}")
        self.held.discard((tenant, f"{tenant}-d{slot}"))
        self.model.free_unused_slots(self.held)

    @rule(pool=st.sampled_from(POOLS), is_paused=st.booleans())
    def pause_pool(self, pool: str, is_paused: bool) -> None:
        (self.queue.pause if is_paused else self.queue.resume)(pool)
        (self.model.paused_pools.add if is_paused else self.model.paused_pools.discard)(pool)

    @rule(tenant=st.sampled_from(TENANTS), is_paused=st.booleans())
    def pause_tenant(self, tenant: str, is_paused: bool) -> None:
        (self.queue.pause_tenant if is_paused else self.queue.resume_tenant)(tenant)
        (self.model.paused_tenants.add if is_paused else self.model.paused_tenants.discard)(tenant)

    @rule(index=st.integers(0, 99))
    def requeue_dead(self, index: int) -> None:
        entry = self._pick("dead", index)
        if entry is not None:
            assert self.queue.requeue_dead(entry.job.id)
            entry.place, entry.attempts, entry.is_cancelled = "ready", 0, False
            self.held.discard((entry.job.tenant_id, entry.job.slot or ""))

    @invariant()
    def running_sets_agree(self) -> None:
        for tenant in TENANTS:
            assert self.queue.running_set(tenant) == self.model.slots[tenant]
        assert self.queue.tenants_with_slots() == {tenant for tenant in TENANTS if self.model.slots[tenant]}

    @invariant()
    def each_job_is_in_exactly_one_place(self) -> None:
        found: dict[str, str] = {}
        for pool in POOLS:
            root = f"{{cloudify}}:queue:{pool}:"
            enqueued = {member.decode() for member in self.redis.zrange(f"{root}enqueued", 0, -1)}
            in_line: list[tuple[str, str]] = []
            for tenant in TENANTS:
                for name in ("ready", "waiting"):
                    for member, score in self.redis.zrange(f"{root}{name}:{tenant}", 0, -1, withscores=True):
                        entry = self.model.entries[member.decode()]
                        assert entry.score == score
                        assert (entry.job.pool, entry.job.tenant_id) == (pool, tenant)
                        assert self.model.needs_slot(entry) == (name == "waiting")
                        in_line.append((entry.job.id, "ready"))
            assert {job_id for job_id, _ in in_line} == enqueued
            for name, place in (("delayed", "delayed"), ("leases", "running"), ("dead", "dead")):
                for member, until in self.redis.zrange(f"{root}{name}", 0, -1, withscores=True):
                    in_line.append((member.decode(), place))
                    assert place == "dead" or self.model.entries[member.decode()].until == until
            assert not found.keys() & {job_id for job_id, _ in in_line}
            assert len(dict(in_line)) == len(in_line)
            found.update(in_line)
        assert found == {entry.job.id: entry.place for entry in self.model.entries.values()}
        records = {key.decode().removeprefix("{cloudify}:job:") for key in self.redis.keys("{cloudify}:job:*")}
        assert records == self.model.entries.keys()
        assert self.counts["in"] == self.counts["done"] + self.counts["dropped"] + len(self.model.entries)

    @invariant()
    def a_tenant_is_eligible_exactly_when_it_can_be_served(self) -> None:
        for pool in POOLS:
            eligible = {member.decode() for member in self.redis.zrange(f"{{cloudify}}:queue:{pool}:eligible", 0, -1)}
            paused, self.model.paused_pools = self.model.paused_pools, set()
            expected = {tenant for tenant in TENANTS if self.model.candidates(pool, tenant)}
            self.model.paused_pools = paused
            assert eligible == expected

    @invariant()
    def the_figures_are_true(self) -> None:
        for row in self.queue.stats():
            mine = [entry for entry in self.model.entries.values() if entry.job.pool == row.pool]
            in_line = [entry for entry in mine if entry.place == "ready"]
            assert row.depth == len(in_line)
            assert row.inflight == sum(entry.place == "running" for entry in mine)
            assert row.delayed == sum(entry.place == "delayed" for entry in mine)
            assert row.dead == sum(entry.place == "dead" for entry in mine)
            blocked = [e for e in in_line if self.model.needs_slot(e) and not self.model.has_free_slot(e.job.tenant_id)]
            assert row.waiting_for_slot == len(blocked)
        for tenant in TENANTS:
            depth = int(self.redis.hget(f"{{cloudify}}:tenant:{tenant}", "depth") or 0)
            waiting = ("ready", "delayed")
            assert depth == sum(e.job.tenant_id == tenant and e.place in waiting for e in self.model.entries.values())


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url) as client:
        yield client


def test_the_queue_agrees_with_its_model_after_every_operation(redis: Redis) -> None:
    class Machine(QueueMachine):
        pass

    Machine.redis = redis
    run_state_machine_as_test(Machine, settings=settings.get_profile("queue"))
