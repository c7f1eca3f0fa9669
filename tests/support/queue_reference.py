"""The model of the queue in plain Python, with which tests compare the real one."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from schemas.messages import Job
from shared.queue.records import Disposition

LEASE_MS = 10_000
POOLS = ("clone", "install")
TENANTS = ("t1", "t2", "t3")
WEIGHTS = {tenant: 1 + index for index, tenant in enumerate(TENANTS)}


@dataclass
class Entry:
    """A job in the model. `place`: ready, delayed, running or dead; `until`: when it is due or its lease expires."""

    job: Job
    score: int
    place: str = "ready"
    until: int = 0
    attempts: int = 0
    worker: str = ""
    strikes: int = 0
    token: int = 0
    is_cancelled: bool = False


@dataclass
class Fairness:
    """Service of each two tenants of a pool, counted while both could be served without a break."""

    work: Counter[tuple[str, str]] = field(default_factory=Counter)
    since: dict[tuple[str, str, str], tuple[Fraction, Fraction]] = field(default_factory=dict)
    greatest_lag: float = 0.0

    def watch(self, pool: str, eligible: set[str]) -> None:
        """`eligible`: the tenants that can be served now. Start-time fair queueing bounds the lag of each pair by a
        job of each, in units of weight (Goyal, Vin, Cheng 1996, theorem 1)."""
        for one, other in itertools.combinations(TENANTS, 2):
            if not {one, other} <= eligible:
                self.since.pop((pool, one, other), None)
                continue
            done = Fraction(self.work[pool, one]), Fraction(self.work[pool, other])
            before = self.since.setdefault((pool, one, other), done)
            shares = [(now - then) / WEIGHTS[t] for t, now, then in zip((one, other), done, before, strict=True)]
            bound = Fraction(1, WEIGHTS[one]) + Fraction(1, WEIGHTS[other])
            lag = abs(shares[0] - shares[1])
            assert lag <= bound, f"{one} and {other} of {pool}: {shares} within {bound}"
            self.greatest_lag = max(self.greatest_lag, float(lag / bound))


@dataclass
class Model:
    now: int = 1_800_000_000_000
    entries: dict[str, Entry] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    slots: dict[str, set[str]] = field(default_factory=lambda: {tenant: set() for tenant in TENANTS})
    held: set[tuple[str, str]] = field(default_factory=set)
    paused_pools: set[str] = field(default_factory=set)
    paused_tenants: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    fairness: Fairness = field(default_factory=Fairness)
    greatest_token: int = 0

    # Questions

    def at(self, place: str) -> list[Entry]:
        return sorted((e for e in self.entries.values() if e.place == place), key=lambda entry: entry.job.id)

    def needs_slot(self, entry: Entry) -> bool:
        return entry.job.slot is not None and entry.job.slot not in self.slots[entry.job.tenant_id]

    def has_free_slot(self, tenant: str) -> bool:
        return len(self.slots[tenant]) < self.limits.get(tenant, 1)

    def candidates(self, pool: str, tenant: str) -> list[Entry]:
        """What may be handed out now, were the pool not paused; by score."""
        if tenant in self.paused_tenants:
            return []
        is_free = self.has_free_slot(tenant)
        found = [
            entry
            for entry in self.entries.values()
            if entry.place == "ready" and entry.job.pool == pool and entry.job.tenant_id == tenant
            and (is_free or not self.needs_slot(entry))
        ]  # fmt: skip
        return sorted(found, key=lambda entry: (entry.score, entry.job.id))

    def live_jobs(self, tenant: str, slot: str | None) -> int:
        jobs = [e for e in self.entries.values() if e.job.tenant_id == tenant and e.place != "dead"]
        return sum(slot is not None and entry.job.slot == slot for entry in jobs)

    def eligible(self, pool: str) -> set[str]:
        return {tenant for tenant in TENANTS if self.candidates(pool, tenant)}

    # Changes

    def insert(self, job: Job, delay_ms: int = 0) -> None:
        if job.id in self.entries:
            assert self.entries.pop(job.id).place == "dead"
            self.counts["dropped"] += 1
        self.limits[job.tenant_id] = job.tenant_limit
        entry = Entry(job, (job.enqueued_at_ms or self.now) + job.priority * 100_000)
        if delay_ms:
            entry.place, entry.until = "delayed", self.now + delay_ms
        self.entries[job.id] = entry
        self.counts["in"] += 1
        # A slot that was held for no job goes with the job from now on.
        self.held.discard((job.tenant_id, job.slot or ""))

    def hand_out(
        self, pool: str, job_id: str, token: int, attempt: int, *, is_cancelled: bool, worker: str = "w"
    ) -> None:
        """The queue handed this job out: it must be the first of its tenant, within its limit, with a new token."""
        self.fairness.watch(pool, self.eligible(pool))
        entry = self.entries[job_id]
        tenant = entry.job.tenant_id
        assert pool not in self.paused_pools
        assert self.candidates(pool, tenant)[0] is entry
        if entry.job.slot is not None and entry.job.slot not in self.slots[tenant]:
            assert self.has_free_slot(tenant)
            self.slots[tenant].add(entry.job.slot)
        entry.place, entry.until, entry.token = "running", self.now + LEASE_MS, token
        entry.worker = worker
        entry.attempts += 1
        assert attempt == entry.attempts <= entry.job.max_attempts
        assert is_cancelled == entry.is_cancelled
        assert token > self.greatest_token
        self.greatest_token = token
        self.fairness.work[pool, tenant] += 1

    def finish(self, entry: Entry, disposition: Disposition, delay_ms: int, next_jobs: list[Job]) -> None:
        if disposition is Disposition.DONE:
            del self.entries[entry.job.id]
            self.counts["done"] += 1
        elif disposition is Disposition.DEAD or (
            disposition is Disposition.RETRY and entry.attempts >= entry.job.max_attempts
        ):
            entry.place = "dead"
        else:
            entry.attempts -= disposition in (Disposition.RELEASE, Disposition.WAIT)
            if disposition is Disposition.WAIT and self.live_jobs(entry.job.tenant_id, entry.job.slot) == 1:
                self.slots[entry.job.tenant_id].discard(entry.job.slot or "")
            entry.place, entry.until = ("delayed", self.now + delay_ms) if delay_ms else ("ready", 0)
        for job in next_jobs:
            self.insert(job)
        self.free_unused_slots()

    def drop(self, entry: Entry, *, keeps_slot: bool = False) -> None:
        tenant, slot = entry.job.tenant_id, entry.job.slot
        if keeps_slot and entry.place != "dead" and slot in self.slots[tenant] and self.live_jobs(tenant, slot) == 1:
            self.held.add((tenant, slot))
        del self.entries[entry.job.id]
        self.counts["dropped"] += 1
        self.free_unused_slots()

    def sweep(self, pool: str | None) -> None:
        for entry in self.entries.values():
            if pool in (None, entry.job.pool) and entry.place in ("delayed", "running") and entry.until <= self.now:
                is_dead = entry.place == "running" and entry.attempts >= entry.job.max_attempts
                entry.place = "dead" if is_dead else "ready"
        self.free_unused_slots()

    def hand_back(self, pool: str, worker: str, *, counts: bool) -> tuple[int, set[str]]:
        """How many are in line again, and those that take no other worker."""
        returned, lost = 0, set[str]()
        for entry in self.at("running"):
            if (entry.job.pool, entry.worker) != (pool, worker):
                continue
            entry.strikes += counts
            if counts and entry.strikes >= 2:
                lost.add(entry.job.id)
            is_dead = entry.job.id in lost or entry.attempts >= entry.job.max_attempts
            entry.place = "dead" if is_dead else "ready"
            returned += not is_dead
        self.free_unused_slots()
        return returned, lost

    def hold(self, tenant: str, slot: str, limit: int) -> None:
        self.limits[tenant] = limit
        self.slots[tenant].add(slot)
        # A live job of the slot keeps it; without one it stays until it is freed.
        if not any(e.job.slot == slot and e.place != "dead" for e in self.entries.values()):
            self.held.add((tenant, slot))

    def free_unused_slots(self) -> None:
        for tenant, slots in self.slots.items():
            live = {e.job.slot for e in self.entries.values() if e.job.tenant_id == tenant and e.place != "dead"}
            slots -= {slot for slot in slots if slot not in live and (tenant, slot) not in self.held}
