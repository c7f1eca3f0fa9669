"""The queue on Redis. Each method runs one script of `lua/`, so each is atomic. README.md explains the design."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from redis import Redis

from schemas.messages import Job
from shared.plans import slots_within
from shared.queue.base import CancelAnswer, Explanation, PoolStats
from shared.queue.encoding import Arguments, decode_job, encode_finish, encode_job, encode_name, encode_share, flatten
from shared.queue.errors import QueueFull
from shared.queue.records import (
    ROLES,
    AcquiredJob,
    Batch,
    BeatAnswer,
    DeadLetter,
    Disposition,
    HandBackAnswer,
    WorkerRecord,
    WorkerState,
)
from shared.queue.scripts import Scripts

# The number of workers that may die under a job before it is dead itself.
_STRIKES = 2
_REASON_CHARACTERS = 500


class RedisJobQueue:
    """A JobQueue, with further methods for workers and operators. Safe from any thread.

    `lease_seconds`: a job whose lease isn't renewed for this long is handed out again. `maximum_depth` bounds the jobs
    in line of a pool, `maximum_tenant_depth` those of a tenant; successors of running jobs are exempt.
    `maximum_tenant_slots` bounds every tenant's slots on this installation, regardless of its plan.
    `clock_key` is for tests (see Scripts).
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_seconds: float = 30.0,
        maximum_depth: int = 1_000_000,
        maximum_tenant_depth: int = 10_000,
        maximum_tenant_slots: int | None = None,
        clock_key: str | None = None,
    ) -> None:
        if lease_seconds <= 0:
            raise ValueError("lease_seconds must be positive.")
        self.redis = redis
        self.lease_seconds = lease_seconds
        self._lease_ms = int(lease_seconds * 1000)
        self._maximum_depth = maximum_depth
        self._maximum_tenant_slots = maximum_tenant_slots
        self._maximum_tenant_depth = maximum_tenant_depth
        self._scripts = Scripts(redis, clock_key=clock_key)

    # -- for producers -------------------------------------------------------------------------------------------

    def enqueue(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        """Returns False if a job with this id is already waiting or running; a dead one is replaced.

        Raises QueueFull, QueueUnavailable, and ValueError for an invalid job.
        """
        [taken] = self._scripts.run(
            "enqueue", self._maximum_depth, self._maximum_tenant_depth, *encode_job(self.bounded(job), delay_seconds)
        )
        if taken == -1:
            raise QueueFull(f"The queue of {job.pool} is full; try again in a minute.", retry_after_seconds=60)
        if taken == -2:
            raise QueueFull(
                f"{self._maximum_tenant_depth} jobs of this account are waiting already; try again when some have run.",
                retry_after_seconds=60,
            )
        return taken == 1

    def cancel(self, job_id: str, *, keeps_slot: bool = False) -> CancelAnswer:
        return CancelAnswer(self._scripts.run("cancel", job_id, int(keeps_slot)).decode())

    def find(self, job_id: str) -> str | None:
        explained = self._scripts.run("explain", job_id)
        if explained is None:
            return None
        state = explained[1].decode()
        return "ready" if state == "waiting" else state

    def set_tenant(self, tenant_id: str, *, limit: int, weight: int) -> None:
        self._scripts.run("set_tenant", encode_name(tenant_id), *encode_share(self._slots(limit), weight))

    def running_set(self, tenant_id: str) -> set[str]:
        return self._members(f"build:active:{encode_name(tenant_id)}")

    def hold_slot(self, tenant_id: str, slot: str, *, limit: int, weight: int) -> None:
        self._scripts.run("hold_slot", encode_name(tenant_id), slot, *encode_share(self._slots(limit), weight))

    def _slots(self, limit: int) -> int:
        return slots_within(limit, self._maximum_tenant_slots)

    def bounded(self, job: Job) -> Job:
        """The job with its tenant's limit bounded by this installation's. Apply it to every job that is sent."""
        return msgspec.structs.replace(job, tenant_limit=self._slots(job.tenant_limit))

    def all_bounded(self, jobs: Iterable[Job | tuple[Job, float]]) -> list[Job | tuple[Job, float]]:
        """Applies `bounded` to jobs, and to jobs with their delays."""
        return [(self.bounded(job[0]), job[1]) if isinstance(job, tuple) else self.bounded(job) for job in jobs]

    def free_slot(self, tenant_id: str, slot: str) -> None:
        """Does nothing while a live job has the slot: it is freed with the last of them."""
        self._scripts.run("free_slot", encode_name(tenant_id), slot)

    def tenants_with_slots(self) -> set[str]:
        return self._members("build:tenants")

    def explain(self, job_id: str) -> Explanation | None:
        reply = self._scripts.run("explain", job_id)
        if reply is None:
            return None
        pool, _state, reason, position, holders, low, high = reply
        return Explanation(
            job_id=job_id,
            pool=pool.decode(),
            reason=reason.decode(),
            position=position or None,
            holders=tuple(sorted(holder.decode() for holder in holders)),
            estimated_start_seconds=None if high < 0 else (low / 1000, high / 1000),
        )

    def stats(self) -> list[PoolStats]:
        """One row for each pool that was ever used, in alphabetical order."""
        rows = sorted(self._scripts.run("stats"))
        return [
            PoolStats(
                pool=pool.decode(),
                depth=depth,
                inflight=inflight,
                delayed=delayed,
                dead=dead,
                oldest_age_seconds=age_ms / 1000,
                is_paused=bool(paused),
                waiting_for_slot=blocked,
            )
            for pool, depth, inflight, delayed, dead, age_ms, paused, blocked, _workers in rows
        ]

    def pause(self, pool: str) -> None:
        self._scripts.run("pause_pool", encode_name(pool), 1)

    def resume(self, pool: str) -> None:
        self._scripts.run("pause_pool", encode_name(pool), 0)

    def pause_tenant(self, tenant_id: str) -> None:
        self._scripts.run("pause_tenant", encode_name(tenant_id), 1)

    def resume_tenant(self, tenant_id: str) -> None:
        self._scripts.run("pause_tenant", encode_name(tenant_id), 0)

    def clear(self) -> None:
        """Deletes everything that the queue holds. The reconciler enqueues again what the database knows.

        Raises QueueUnavailable.
        """
        cursor = b"0"
        while True:
            cursor = self._scripts.run("clear", cursor)
            if cursor == b"0":
                return

    def server_time(self) -> float:
        """Redis's clock, in seconds since the epoch."""
        seconds, microseconds = self._scripts.server_time()
        return seconds + microseconds / 1_000_000

    def server_info(self) -> dict[str, str]:
        """Redis's INFO: versions, role, memory, persistence."""
        return self._scripts.server_info()

    def ping(self) -> None:
        """Raises QueueUnavailable if scripts can't run."""
        self._scripts.run("stats")

    # -- for workers ---------------------------------------------------------------------------------------------

    def acquire(self, pool: str, count: int, *, worker: str, request_id: str) -> Batch:
        """Hands out up to `count` jobs in fair order, each with its slot, lease and token.

        After a lost reply, repeat the call with the same `request_id`: it returns the same jobs.
        """
        return self.exchange(pool, count, worker=worker, request_id=request_id)

    def exchange(
        self,
        pool: str,
        count: int,
        *,
        worker: str,
        request_id: str,
        finishes: Sequence[Arguments] = (),
        answered_request_id: str = "",
    ) -> Batch:
        """Ends leases (see `encode_finish`) and acquires, in one step, so that freed slots are handed out at once.

        May be repeated as `acquire` and `finish` may; finishes that were applied the first time then return False.
        `answered_request_id` is a request whose reply has arrived: its record is deleted.
        """
        arguments = (encode_name(pool), count, worker, request_id, self._lease_ms, answered_request_id, len(finishes))
        applied, next_due, rows = self._scripts.run("exchange", *arguments, *flatten(finishes))
        jobs = tuple(
            AcquiredJob(decode_job(body, enqueued), token, attempt, bool(cancelled), waited_ms / 1000)
            for body, token, attempt, enqueued, cancelled, waited_ms in rows
        )
        return Batch(jobs, None if next_due < 0 else next_due / 1000, tuple(map(bool, applied)))

    def beat(self, leases: Sequence[tuple[str, int]]) -> list[BeatAnswer]:
        """Renews leases, given as (job id, token). The answers are in the same order. May be repeated."""
        if not leases:
            return []
        flat = [part for job_id, token in leases for part in (job_id, token)]
        return [BeatAnswer(answer) for answer in self._scripts.run("beat", self._lease_ms, *flat)]

    def finish(
        self,
        job_id: str,
        token: int,
        disposition: Disposition,
        *,
        delay_seconds: float = 0.0,
        reason: str = "attempts_exhausted",
        next_jobs: Sequence[Job | tuple[Job, float]] = (),
    ) -> bool:
        """Ends a lease. Returns False, and changes nothing, if the caller doesn't hold it (any more). May be repeated.

        `next_jobs` (a job, or a job and its delay in seconds) are enqueued in the same step. Raises ValueError for
        `next_jobs` with a disposition other than DONE.
        """
        if next_jobs and disposition is not Disposition.DONE:
            raise ValueError(f"{disposition} has no successors; only done has.")
        finish = encode_finish(
            job_id,
            token,
            disposition,
            delay_seconds=delay_seconds,
            reason=reason,
            next_jobs=self.all_bounded(next_jobs),
        )
        return self.finish_many([finish])[0]

    def finish_many(self, finishes: Sequence[Arguments]) -> list[bool]:
        """Ends several leases in one step (see `encode_finish`). Each finish is applied or refused on its own."""
        applied, _next_due, _rows = self._scripts.run(
            "exchange", "", 0, "", "", self._lease_ms, "", len(finishes), *flatten(finishes)
        )
        return [bool(answer) for answer in applied]

    def sweep(self) -> int:
        """Moves due delayed jobs into line and takes back expired leases, in all pools. Returns how many expired."""
        return self._scripts.run("sweep", 1000)

    def register_worker(self, record: WorkerRecord, *, expires_seconds: float) -> None:
        self._scripts.run(
            "register_worker",
            encode_name(record.pool),
            record.worker,
            record.threads,
            record.busy,
            int(expires_seconds * 1000),
            "roles" if record.pool in ROLES else "pools",
            record.host,
            record.version,
            record.state.value,
            record.reason[:_REASON_CHARACTERS],
        )

    def unregister_worker(self, pool: str, worker: str) -> None:
        set_of_names = "roles" if pool in ROLES else "pools"
        self._scripts.run("register_worker", encode_name(pool), worker, 0, 0, 0, set_of_names, "", "", "", "")

    def hand_back(self, pool: str, worker: str, *, counts: bool) -> HandBackAnswer:
        """Takes back the jobs of a worker that is known to be dead, without waiting for its leases. May be repeated.

        The jobs return to their old places, and their attempts count, as if their leases had expired. `counts`: the
        jobs may have caused the death. After the second such death a job is dead as WORKER_LOST.
        """
        arguments = (encode_name(pool), worker, int(counts), _STRIKES)
        returned, lost = self._scripts.run("hand_back", *arguments)
        return HandBackAnswer(returned, tuple(job_id.decode() for job_id in lost))

    def workers(self) -> list[WorkerRecord]:
        """The live workers of all pools."""
        return self._registered("pools")

    def other_processes(self) -> list[WorkerRecord]:
        """The live processes of other roles."""
        return self._registered("roles")

    def _registered(self, set_of_names: str) -> list[WorkerRecord]:
        return [
            WorkerRecord(
                pool.decode(), worker.decode(), threads, busy, seen_ms / 1000,
                host.decode(), version.decode(), _state_of(state), reason.decode(),
            )
            for pool, worker, threads, busy, seen_ms, host, version, state, reason
            in self._scripts.run("list_workers", set_of_names)
        ]  # fmt: skip

    # -- for operators -------------------------------------------------------------------------------------------

    def dead_letters(self, pool: str, *, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters of a pool, newest first."""
        return [
            DeadLetter(decode_job(body, enqueued), attempts, died_ms / 1000, reason.decode())
            for body, attempts, died_ms, reason, enqueued in self._scripts.run("dead_letters", encode_name(pool), limit)
        ]

    def death_reason(self, job_id: str) -> str | None:
        reason = self._scripts.run("death", job_id)
        return None if reason is None else reason.decode()

    def requeue_dead(self, job_id: str) -> bool:
        """Returns a dead letter to its old place in line and resets its attempts. Returns False if there is none."""
        return self._scripts.run("requeue_dead", job_id) == 1

    def drop_dead(self, job_id: str) -> bool:
        return self._scripts.run("drop_dead", job_id) == 1

    def jobs_in_line(self, pool: str) -> list[str]:
        """The ids of the jobs in line, oldest first, followed by those of the delayed jobs."""
        return [job_id.decode() for job_id in self._scripts.run("jobs_in_line", encode_name(pool))]

    def _members(self, name: str) -> set[str]:
        return {member.decode() for member in self._scripts.run("members", name)}


def _state_of(value: bytes) -> WorkerState:
    """A process of a later version may have a state that this one doesn't know."""
    try:
        return WorkerState(value.decode())
    except ValueError:
        return WorkerState.RUNNING
