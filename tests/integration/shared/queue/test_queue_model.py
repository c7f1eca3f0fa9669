"""The queue against its model (queue_reference): any sequence of operations, every invariant after each one.

`make queue-model` runs many more examples and shrinks what it finds; CLOUDIFY_QUEUE_EXAMPLES says how many. In CI the
examples are in parts, which the processes of `make test` share.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from schemas.messages import Job
from shared.queue.base import WORKER_LOST, CancelAnswer
from shared.queue.connection import connect_redis
from shared.queue.encoding import encode_finish
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import BeatAnswer, Disposition
from tests.support.queue_flood import enqueue_many
from tests.support.queue_reference import LEASE_MS, POOLS, TENANTS, WEIGHTS, Entry, Model

pytestmark = pytest.mark.integration
T = TypeVar("T")
WORKERS = ("w", "v")
CLOCK = "{cloudify}:test-clock"

# Everything that Redis holds, in one round trip.
_DUMP = """
local reply = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local read = ({hash = {'HGETALL', key}, set = {'SMEMBERS', key}, list = {'LRANGE', key, 0, -1},
    zset = {'ZRANGE', key, 0, -1, 'WITHSCORES'}, string = {'GET', key}})[kind]
  reply[#reply + 1] = {key, kind, redis.call(unpack(read))}
end
return reply
"""

# A quick look while one works, 2 000 examples in CI, and as many as asked for, with shrinking, by `make queue-model`.
_EXAMPLES = int(os.environ.get("CLOUDIFY_QUEUE_EXAMPLES", "0"))
_IS_CI = os.environ.get("CI") == "true"
_PARTS = 8 if _IS_CI and not _EXAMPLES else 1
settings.register_profile(
    "queue",
    max_examples=_EXAMPLES or (2000 // _PARTS if _IS_CI else 60),
    stateful_step_count=50 if _EXAMPLES else (20 if _IS_CI else 200),
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink] if _EXAMPLES else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
Shape = tuple[str, str, int | None, int, int, int]
# Keys without their root; a hash is a dict, a set is a set.
State = dict[str, Any]


class QueueMachine(RuleBasedStateMachine):
    redis: Redis
    real_queue: RedisJobQueue
    dump: Callable[[], list[Any]]
    steps: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.model = Model()
        self.redis.set(CLOCK, self.model.now)
        self.names = itertools.count()
        # Of the example: they say which worker asks, and an example that is run again has to do the same.
        self.requests = itertools.count()
        self.stale: list[tuple[str, int]] = []
        self.answered = ""
        # What Redis held after the last command, where that is known.
        self.known: State | None = None

    @property
    def queue(self) -> RedisJobQueue:
        """For one command: it may change what Redis holds."""
        self.known = None
        return self.real_queue

    def _pick(self, place: str, index: int) -> Entry | None:
        entries = self.model.at(place)
        return entries[index % len(entries)] if entries else None

    def _make(self, shape: Shape, **more: Any) -> Job:
        pool, tenant, slot, priority, limit, attempts = shape
        fields: dict[str, Any] = {
            "id": f"j{next(self.names):04}", "pool": pool, "actor": "a", "tenant_id": tenant, "payload": {},
            "slot": None if slot is None else f"{tenant}-d{slot}", "priority": priority, "tenant_limit": limit,
            "tenant_weight": WEIGHTS[tenant], "max_attempts": attempts,
        }  # fmt: skip
        return Job(**{**fields, **more})

    def _replayed(self, command: Callable[[], T], answer: T) -> None:
        """A command that is sent again changes nothing."""
        before = self._state()
        assert command() == answer
        assert self._state() == before

    def _state(self) -> State:
        # Hashes and sets come in no order.
        if self.known is None:
            self.known = {
                key.decode().removeprefix("{cloudify}:"): dict(zip(value[::2], value[1::2], strict=True))
                if kind == b"hash"
                else set(value) if kind == b"set" else value
                for key, kind, value in self.dump()
            }  # fmt: skip
        return self.known

    shapes = st.tuples(
        st.sampled_from(POOLS), st.sampled_from(TENANTS), st.none() | st.integers(0, 4), st.integers(0, 9),
        st.integers(0, 3), st.integers(1, 3),
    )  # fmt: skip
    indices = st.integers(0, 99)

    # Jobs in

    @rule(shape=shapes, delay_ms=st.sampled_from([0, 0, 0, 3000]))
    def enqueue(self, shape: Shape, delay_ms: int) -> None:
        job = self._make(shape)
        assert self.queue.enqueue(job, delay_seconds=delay_ms / 1000)
        self.model.insert(job, delay_ms)
        self._replayed(lambda: self.queue.enqueue(job), False)

    @rule(shapes=st.lists(shapes, min_size=2, max_size=8))
    def enqueue_many(self, shapes: list[Shape]) -> None:
        jobs = [self._make(shape) for shape in shapes]
        assert enqueue_many(self.queue, jobs) == len(jobs)
        for job in jobs:
            self.model.insert(job)
        self._replayed(lambda: enqueue_many(self.queue, jobs), 0)

    @rule(shape=shapes, age_ms=st.sampled_from([1, 50_000, 500_000]))
    def put_back_at_its_old_place(self, shape: Shape, age_ms: int) -> None:
        job = self._make(shape, enqueued_at_ms=self.model.now - age_ms)
        assert self.queue.enqueue(job)
        self.model.insert(job)

    @rule(shape=shapes, index=indices)
    def enqueue_over_a_dead_letter(self, shape: Shape, index: int) -> None:
        entry = self._pick("dead", index)
        if entry is not None:
            job = self._make(shape, id=entry.job.id)
            assert self.queue.enqueue(job)
            self.model.insert(job)

    # Jobs out

    @rule(pool=st.sampled_from(POOLS), count=st.integers(0, 6), is_replayed=st.booleans())
    def acquire(self, pool: str, count: int, is_replayed: bool) -> None:
        self._exchange(pool, count, [], is_replayed=is_replayed)

    @rule(
        pool=st.sampled_from(POOLS), count=st.integers(0, 4), is_replayed=st.booleans(),
        ends=st.lists(
            st.tuples(indices, st.sampled_from(Disposition), st.sampled_from([0, 3000]), st.none() | shapes), max_size=3
        ),
    )  # fmt: skip
    def exchange(self, pool: str, count: int, is_replayed: bool, ends: list[tuple[Any, ...]]) -> None:
        self._exchange(pool, count, ends, is_replayed=is_replayed)

    def _exchange(self, pool: str, count: int, ends: list[tuple[Any, ...]], *, is_replayed: bool) -> None:
        finishes: list[Any] = []
        for index, disposition, delay_ms, shape in ends:
            entry = self._pick("running", index)
            if entry is None:
                break
            next_jobs = []
            if disposition is Disposition.DONE and shape is not None:
                # A successor keeps its predecessor's tenant and slot.
                next_jobs = [self._make((shape[0], entry.job.tenant_id, None, *shape[3:]), slot=entry.job.slot)]
            finishes.append(
                encode_finish(
                    entry.job.id,
                    entry.token,
                    disposition,
                    delay_seconds=delay_ms / 1000,
                    next_jobs=next_jobs,
                    reason="r",
                )
            )
            self.stale.append((entry.job.id, entry.token))
            self.model.finish(entry, disposition, delay_ms, next_jobs)
        number = next(self.requests)
        request, answered, worker = f"r{number}", self.answered, WORKERS[number % len(WORKERS)]

        def command() -> Any:
            return self.queue.exchange(
                pool, count, worker=worker, request_id=request, finishes=finishes, answered_request_id=answered
            )

        batch = command()
        assert batch.applied == (True,) * len(finishes)
        self.model.sweep(pool)
        for job in batch.jobs:
            self.model.hand_out(pool, job.job.id, job.token, job.attempt, is_cancelled=job.is_cancelled, worker=worker)
        self.answered = request if batch.jobs else ""
        # Work-conserving: less than asked for is answered only when nothing more can be handed out.
        assert len(batch.jobs) <= count
        if len(batch.jobs) < count and pool not in self.model.paused_pools:
            assert not self.model.eligible(pool)
        if is_replayed and (batch.jobs or count == 0):
            before = self._state()
            again = command()
            assert (again.jobs, again.applied) == (batch.jobs, (False,) * len(finishes))
            assert self._state() == before

    @rule(index=indices, disposition=st.sampled_from(Disposition), delay_ms=st.sampled_from([0, 3000]))
    def finish(self, index: int, disposition: Disposition, delay_ms: int) -> None:
        entry = self._pick("running", index)
        if entry is None:
            return

        def command() -> bool:
            return self.queue.finish(entry.job.id, entry.token, disposition, delay_seconds=delay_ms / 1000)

        assert command()
        self.stale.append((entry.job.id, entry.token))
        self.model.finish(entry, disposition, delay_ms, [])
        self._replayed(command, False)

    @precondition(lambda self: self.stale)
    @rule(index=indices, disposition=st.sampled_from(Disposition))
    def a_stale_worker_changes_nothing(self, index: int, disposition: Disposition) -> None:
        job_id, token = self.stale[index % len(self.stale)]
        self._replayed(lambda: self.queue.finish(job_id, token, disposition), False)
        self._replayed(lambda: self.queue.beat([(job_id, token)]), [BeatAnswer.LOST])

    @rule(pool=st.sampled_from(POOLS), worker=st.sampled_from(WORKERS), counts=st.booleans())
    def hand_back(self, pool: str, worker: str, counts: bool) -> None:
        self.stale += [
            (entry.job.id, entry.token)
            for entry in self.model.at("running")
            if (entry.job.pool, entry.worker) == (pool, worker)
        ]

        def command() -> tuple[int, set[str]]:
            answer = self.queue.hand_back(pool, worker, counts=counts)
            return answer.returned, set(answer.lost)

        expected = self.model.hand_back(pool, worker, counts=counts)
        assert command() == expected
        for job_id in expected[1]:
            assert self.queue.death_reason(job_id) == WORKER_LOST
        self._replayed(command, (0, set()))

    @rule(shape=shapes, deaths=st.integers(1, 3))
    def workers_are_ended_again_and_again(self, shape: Shape, deaths: int) -> None:
        self.enqueue(shape, 0)
        for _ in range(deaths):
            self.acquire(shape[0], 4, is_replayed=False)
            for worker in WORKERS:
                self.hand_back(shape[0], worker, counts=True)

    @rule(index=indices)
    def beat(self, index: int) -> None:
        entry = self._pick("running", index)
        if entry is None:
            return
        expected = BeatAnswer.CANCELLED if entry.is_cancelled else BeatAnswer.RENEWED
        assert self.queue.beat([(entry.job.id, entry.token)]) == [expected]
        entry.until = self.model.now + LEASE_MS
        self._replayed(lambda: self.queue.beat([(entry.job.id, entry.token)]), [expected])

    @rule(place=st.sampled_from(["ready", "delayed", "running", "dead"]), index=indices, keeps_slot=st.booleans())
    def cancel(self, place: str, index: int, keeps_slot: bool = False) -> None:
        entry = self._pick(place, index)
        if entry is None:
            assert self.queue.cancel("nothing") is CancelAnswer.UNKNOWN
            return
        disposition = self.queue.cancel(entry.job.id, keeps_slot=keeps_slot)
        if place == "running":
            assert disposition is CancelAnswer.SIGNALLED
            entry.is_cancelled = True
            self._replayed(lambda: self.queue.cancel(entry.job.id), CancelAnswer.SIGNALLED)
            return
        assert disposition is CancelAnswer.REMOVED
        self.model.drop(entry, keeps_slot=keeps_slot)
        self._replayed(lambda: self.queue.cancel(entry.job.id, keeps_slot=keeps_slot), CancelAnswer.UNKNOWN)

    # Time

    @rule(milliseconds=st.sampled_from([1, 500, 3000, LEASE_MS]), is_swept=st.booleans())
    def time_passes(self, milliseconds: int, is_swept: bool) -> None:
        self.model.now = self.redis.incrby(CLOCK, milliseconds)
        self.known = None
        if is_swept:
            expired = sum(entry.until <= self.model.now for entry in self.model.at("running"))
            assert self.queue.sweep() == expired
            self.model.sweep(None)
            self._replayed(self.queue.sweep, 0)

    @rule(shape=shapes, crashes=st.integers(1, 3))
    def a_worker_crashes_again_and_again(self, shape: Shape, crashes: int) -> None:
        self.enqueue(shape, 0)
        for _ in range(crashes):
            self.acquire(shape[0], 4, is_replayed=False)
            self.time_passes(LEASE_MS, is_swept=True)

    @rule(shape=shapes, index=indices)
    def a_job_is_cancelled_while_it_waits_for_its_retry(self, shape: Shape, index: int) -> None:
        self.enqueue(shape, 0)
        self.acquire(shape[0], 1, is_replayed=True)
        self.finish(index, Disposition.RETRY, 3000)
        self.cancel("delayed", index)

    @rule(pool=st.sampled_from(POOLS), count=st.integers(2, 6))
    def all_tenants_stay_busy(self, pool: str, count: int) -> None:
        """What fairness is about: everybody has more than can be run."""
        self.enqueue_many([(pool, tenant, None, 5, 3, 3) for tenant in TENANTS for _ in range(count)])
        for _ in range(count):
            self._exchange(pool, 2, [(0, Disposition.DONE, 0, None)] * 2, is_replayed=False)

    # Operators

    @rule(tenant=st.sampled_from(TENANTS), limit=st.integers(0, 4))
    def set_tenant(self, tenant: str, limit: int) -> None:
        self.queue.set_tenant(tenant, limit=limit, weight=WEIGHTS[tenant])
        self.model.limits[tenant] = limit
        self._replayed(lambda: self.queue.set_tenant(tenant, limit=limit, weight=WEIGHTS[tenant]), None)

    @rule(tenant=st.sampled_from(TENANTS), slot=st.integers(0, 4), limit=st.integers(0, 3))
    def hold_slot(self, tenant: str, slot: int, limit: int) -> None:
        def command() -> None:
            self.queue.hold_slot(tenant, f"{tenant}-d{slot}", limit=limit, weight=WEIGHTS[tenant])

        command()
        self.model.hold(tenant, f"{tenant}-d{slot}", limit)
        self._replayed(command, None)

    @rule(tenant=st.sampled_from(TENANTS), slot=st.integers(0, 4))
    def free_slot(self, tenant: str, slot: int) -> None:
        self.queue.free_slot(tenant, f"{tenant}-d{slot}")
        self.model.held.discard((tenant, f"{tenant}-d{slot}"))
        self.model.free_unused_slots()
        self._replayed(lambda: self.queue.free_slot(tenant, f"{tenant}-d{slot}"), None)

    @rule(pool=st.sampled_from(POOLS), is_paused=st.booleans())
    def pause_pool(self, pool: str, is_paused: bool) -> None:
        (self.queue.pause if is_paused else self.queue.resume)(pool)
        (self.model.paused_pools.add if is_paused else self.model.paused_pools.discard)(pool)

    @rule(tenant=st.sampled_from(TENANTS), is_paused=st.booleans())
    def pause_tenant(self, tenant: str, is_paused: bool) -> None:
        (self.queue.pause_tenant if is_paused else self.queue.resume_tenant)(tenant)
        (self.model.paused_tenants.add if is_paused else self.model.paused_tenants.discard)(tenant)

    @rule(index=indices)
    def requeue_dead(self, index: int) -> None:
        entry = self._pick("dead", index)
        if entry is not None:
            assert self.queue.requeue_dead(entry.job.id)
            entry.place, entry.attempts, entry.is_cancelled, entry.strikes = "ready", 0, False, 0
            self.model.held.discard((entry.job.tenant_id, entry.job.slot or ""))
            self._replayed(lambda: self.queue.requeue_dead(entry.job.id), False)

    @rule(index=indices)
    def drop_dead(self, index: int) -> None:
        entry = self._pick("dead", index)
        if entry is not None:
            assert self.queue.drop_dead(entry.job.id)
            self.model.drop(entry)
            self._replayed(lambda: self.queue.drop_dead(entry.job.id), False)

    @rule(index=indices)
    def explain(self, index: int) -> None:
        entry = self._pick("ready", index)
        if entry is None:
            return
        found = self.queue.explain(entry.job.id)
        assert found is not None
        tenant, pool = entry.job.tenant_id, entry.job.pool
        line = [e for e in self.model.at("ready") if (e.job.tenant_id, e.job.pool) == (tenant, pool)]
        is_paused = pool in self.model.paused_pools or tenant in self.model.paused_tenants
        assert found.reason == ("paused" if is_paused else "no_workers")
        assert set(found.holders) == self.model.slots[tenant]
        # Its place among the tenant's; those of the same score in the other list may be told either way.
        least = sum((e.score, e.job.id) < (entry.score, entry.job.id) for e in line if e.score < entry.score)
        assert found.position is not None
        assert least < found.position <= sum(e.score <= entry.score for e in line)

    # What must always hold

    @invariant()
    def everything_agrees(self) -> None:
        self.steps["steps"] += 1
        state = self._state()
        self._check_places(state)
        self._check_slots(state)
        self._check_figures(state)
        for pool in POOLS:
            # A tenant is eligible ⇔ it has a ready job, or a waiting one and a free slot, and isn't paused.
            eligible = self.model.eligible(pool)
            assert {name for name, _ in scores(state, f"queue:{pool}:eligible")} == eligible
            self.model.fairness.watch(pool, eligible)
        self.steps["lag"] = max(self.steps["lag"], round(100 * self.model.fairness.greatest_lag))

    def _check_places(self, state: State) -> None:
        """Each job is in exactly one place, with its score, its lease, its token and its attempts."""
        entries, found = self.model.entries, []
        for pool in POOLS:
            for tenant in TENANTS:
                for name in ("ready", "waiting"):
                    for job_id, score in scores(state, f"queue:{pool}:{name}:{tenant}"):
                        entry = entries[job_id]
                        assert (entry.job.pool, entry.job.tenant_id, entry.score) == (pool, tenant, score)
                        assert self.model.needs_slot(entry) == (name == "waiting")
                        found.append((job_id, "ready"))
            in_line = {job_id for job_id, _ in found if entries[job_id].job.pool == pool}
            assert {job_id for job_id, _ in scores(state, f"queue:{pool}:enqueued")} == in_line
            for name, place in (("delayed", "delayed"), ("leases", "running"), ("dead", "dead")):
                for job_id, until in scores(state, f"queue:{pool}:{name}"):
                    assert place == "dead" or entries[job_id].until == until
                    found.append((job_id, place))
        assert len(found) == len(entries)
        assert dict(found) == {entry.job.id: entry.place for entry in entries.values()}
        records = {key.removeprefix("job:"): value for key, value in state.items() if key[:4] == "job:"}
        assert records.keys() == entries.keys()
        for job_id, record in records.items():
            assert int(record[b"attempts"]) == entries[job_id].attempts <= entries[job_id].job.max_attempts
            assert int(record.get(b"strikes", 0)) == entries[job_id].strikes
            if entries[job_id].place == "running":
                assert int(record[b"token"]) == entries[job_id].token
        counts = self.model.counts
        assert counts["in"] == counts["done"] + counts["dropped"] + len(entries)

    def _check_slots(self, state: State) -> None:
        """The running set is what live jobs and holds say; nothing leaks."""
        for tenant in TENANTS:
            active = {member.decode() for member in state.get(f"build:active:{tenant}", ())}
            assert active == self.model.slots[tenant]
            since = state.get(f"build:since:{tenant}", {})
            assert {slot.decode() for slot in since} == active
        tenants = {member.decode() for member in state.get("build:tenants", ())}
        assert tenants == {tenant for tenant in TENANTS if self.model.slots[tenant]}
        members = {(key[5:], member) for key, value in state.items() if key[:5] == "slot:" for member in value}
        assert members == {
            (f"{e.job.tenant_id}:{e.job.slot}", e.job.id.encode())
            for e in self.model.entries.values()
            if e.job.slot is not None and e.place != "dead"
        }

    def _check_figures(self, state: State) -> None:
        for pool in POOLS:
            in_line = [entry for entry in self.model.at("ready") if entry.job.pool == pool]
            blocked = Counter(
                e.job.tenant_id
                for e in in_line
                if self.model.needs_slot(e) and not self.model.has_free_slot(e.job.tenant_id)
            )
            shown = state.get(f"queue:{pool}:blocked", {})
            assert {tenant.decode(): int(count) for tenant, count in shown.items()} == blocked
            figures = state.get(f"queue:{pool}:state", {})
            assert int(figures.get(b"blocked", 0)) == blocked.total()
            assert (b"paused" in figures) == (pool in self.model.paused_pools)
        for tenant in TENANTS:
            record = state.get(f"tenant:{tenant}", {})
            waiting = [e for e in self.model.entries.values() if e.job.tenant_id == tenant]
            assert int(record.get(b"depth", 0)) == sum(e.place in ("ready", "delayed") for e in waiting)

    def teardown(self) -> None:
        """What `stats` says is what the invariants have looked at all along."""
        for row in self.queue.stats():
            mine = Counter(entry.place for entry in self.model.entries.values() if entry.job.pool == row.pool)
            shown = (row.depth, row.inflight, row.delayed, row.dead)
            assert shown == (mine["ready"], mine["running"], mine["delayed"], mine["dead"])


def scores(state: State, key: str) -> list[tuple[str, float]]:
    flat = state.get(key, [])
    return [(flat[at].decode(), float(flat[at + 1])) for at in range(0, len(flat), 2)]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url, timeout_seconds=120) as client:
        yield client


@pytest.mark.timeout(0 if _EXAMPLES else 1200)
@pytest.mark.parametrize("part", range(_PARTS))
def test_the_queue_agrees_with_its_model_after_every_operation(
    redis: Redis, part: int, record_property: Callable[[str, object], None]
) -> None:
    # The run's seed is that of each test: without its own, a part would try what the others try.
    @seed(random.getrandbits(64) + part)
    class Machine(QueueMachine):
        pass

    Machine.redis = redis
    Machine.real_queue = RedisJobQueue(redis, lease_seconds=LEASE_MS / 1000, clock_key=CLOCK)
    Machine.dump = redis.register_script(_DUMP)
    Machine.steps = Counter()
    run_state_machine_as_test(Machine, settings=settings.get_profile("queue"))
    print(f"part {part}: {Machine.steps['steps']} operations, greatest lag {Machine.steps['lag']} % of its bound")
    record_property("operations", Machine.steps["steps"])
    # Lag came near its bound: tenants did compete.
    assert Machine.steps["lag"] >= 50
