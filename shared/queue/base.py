"""The seam to the queue, for those who enqueue and ask, and for the code that runs a job."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.messages import Job
from shared.signals import Signal

# Two workers were ended under the job, for an old heartbeat or by the memory killer (see hand_back).
WORKER_LOST = "worker_lost"


class CancelOutcome(enum.StrEnum):
    REMOVED = "removed"  # it waited; it never runs
    SIGNALLED = "signalled"  # it runs; its worker is told and confirms
    UNKNOWN = "unknown"  # the queue holds no such job


@dataclass(frozen=True, slots=True)
class PoolStats:
    """`oldest_age_seconds`: how long the oldest ready job has waited, 0 when none does."""

    pool: str
    depth: int
    inflight: int
    delayed: int
    dead: int
    oldest_age_seconds: float
    is_paused: bool
    waiting_for_slot: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job waits. `position`: 1 is next among the tenant's jobs of the pool; `holders`: the running set."""

    job_id: str
    pool: str
    reason: str  # plan_limit, pool_busy, delayed, paused, no_workers, running
    position: int | None
    holders: tuple[str, ...]
    estimated_start_seconds: tuple[float, float] | None


class JobQueue(Protocol):
    """Safe from any thread and process; every call is one atomic script and may be repeated.

    Raises QueueUnavailable when Redis can't be reached, QueueFull when a bound is reached; then nothing was changed.
    """

    def enqueue(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        """False when a job of this id waits or runs already."""
        ...

    def cancel(self, job_id: str, *, keeps_slot: bool = False) -> CancelOutcome:
        """With `keeps_slot` a removed job's slot stays in the running set until `free_slot`: for a caller that has
        something to record before another job may take it."""
        ...

    def find(self, job_id: str) -> str | None:
        """Where the job is: ready, delayed, running, dead; None when the queue doesn't hold it."""
        ...

    def death_reason(self, job_id: str) -> str | None:
        """Why the job is dead: WORKER_LOST, lease_expired, or its last error; None when no dead letter has the id."""
        ...

    def set_tenant(self, tenant_id: str, *, limit: int, weight: int) -> None: ...

    def running_set(self, tenant_id: str) -> set[str]:
        """The slots that the tenant holds: deployments between the first stage's start and the end."""
        ...

    def hold_slot(self, tenant_id: str, slot: str, *, limit: int, weight: int) -> None:
        """Puts a slot into the running set whatever the limit: for the rebuild of what already runs."""
        ...

    def free_slot(self, tenant_id: str, slot: str) -> None: ...

    def tenants_with_slots(self) -> set[str]: ...

    def explain(self, job_id: str) -> Explanation | None: ...

    def stats(self) -> list[PoolStats]: ...

    def pause(self, pool: str) -> None: ...

    def resume(self, pool: str) -> None: ...

    def ping(self) -> None: ...


class Lease(Protocol):
    """A running job, as the code that runs it sees it. The outcome that was set last is applied when it returns.

    When no outcome was set, returning means done and raising means retry with backoff.
    """

    @property
    def job(self) -> Job: ...

    @property
    def token(self) -> int:
        """The fencing token: strictly growing over all acquisitions, Redis's loss included."""
        ...

    @property
    def attempt(self) -> int:
        """1 the first time."""
        ...

    @property
    def is_last_attempt(self) -> bool: ...

    @property
    def lost(self) -> Signal:
        """Set when the lease is another's: write nothing more."""
        ...

    @property
    def cancelled(self) -> Signal:
        """Set when the job was cancelled."""
        ...

    @property
    def stopping(self) -> Signal:
        """Set when this process is asked to stop: long jobs should hand back with `release`."""
        ...

    def done(self, next_jobs: Sequence[Job] = ()) -> None:
        """Release, and enqueue what follows, in one step. The slot is kept exactly if a successor has it."""
        ...

    def retry(self, delay_seconds: float) -> None:
        """Put back for later; counts as an attempt; the slot is kept."""
        ...

    def release(self, delay_seconds: float = 0.0) -> None:
        """Put back in its old place; the attempt is refunded; the slot is kept."""
        ...

    def wait_for_slot(self, delay_seconds: float = 0.0) -> None:
        """Put back in its old place; the attempt is refunded; the slot is given up unless another job has it."""
        ...
