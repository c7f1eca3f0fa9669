"""The interface of the queue: for producers of jobs, and for the code that runs a job."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.messages import Job
from shared.signals import Signal

# The reason of a death: two workers were killed while they ran the job, for a silent heartbeat or by the kernel for
# lack of memory (see hand_back).
WORKER_LOST = "worker_lost"


class CancelAnswer(enum.StrEnum):
    REMOVED = "removed"  # it was waiting; it will never run
    SIGNALLED = "signalled"  # it is running; its worker is told, and confirms by ending it
    UNKNOWN = "unknown"  # the queue has no such job


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Numbers of a pool's jobs. `oldest_age_seconds`: how long the oldest job in line has waited, 0 without one.

    `depth` counts the jobs in line, `waiting_for_slot` those of them whose tenant has no free slot.
    """

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
    """Why a job waits.

    `position`: its place among the tenant's jobs of the pool, 1 for the next. `holders`: the tenant's running set.
    """

    job_id: str
    pool: str
    reason: str  # plan_limit, pool_busy, delayed, paused, no_workers, running
    position: int | None
    holders: tuple[str, ...]
    estimated_start_seconds: tuple[float, float] | None


class JobQueue(Protocol):
    """Safe from any thread and process. Every call is one atomic script and may be repeated.

    Raises QueueUnavailable if Redis can't be reached; the script may or may not have run then. Raises QueueFull if a
    bound is reached; nothing was changed then.
    """

    def enqueue(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        """Returns False if a job with this id is already waiting or running."""
        ...

    def cancel(self, job_id: str, *, keeps_slot: bool = False) -> CancelAnswer:
        """Removes a waiting job, or tells the worker of a running one.

        `keeps_slot` leaves the slot of a removed job in the running set until `free_slot`, for a caller that must
        record something before another job may take the slot.
        """
        ...

    def find(self, job_id: str) -> str | None:
        """The job's state: ready, delayed, running or dead; None if the queue doesn't have it."""
        ...

    def death_reason(self, job_id: str) -> str | None:
        """Why the job died: WORKER_LOST, lease_expired, or its last error; None if it isn't a dead letter."""
        ...

    def set_tenant(self, tenant_id: str, *, limit: int, weight: int) -> None: ...

    def running_set(self, tenant_id: str) -> set[str]:
        """The slots that the tenant occupies: deployments from the start of their first stage to their end."""
        ...

    def hold_slot(self, tenant_id: str, slot: str, *, limit: int, weight: int) -> None:
        """Puts a slot into the running set regardless of the limit, to restore what already runs."""
        ...

    def free_slot(self, tenant_id: str, slot: str) -> None: ...

    def tenants_with_slots(self) -> set[str]: ...

    def explain(self, job_id: str) -> Explanation | None: ...

    def stats(self) -> list[PoolStats]: ...

    def pause(self, pool: str) -> None: ...

    def resume(self, pool: str) -> None: ...

    def ping(self) -> None: ...


class Lease(Protocol):
    """A running job, for the code that runs it. The disposition that was set last is applied when that code returns.

    Without one, returning means done, and raising means retry with backoff.
    """

    @property
    def job(self) -> Job: ...

    @property
    def token(self) -> int:
        """The fencing token. It grows strictly over all acquisitions, even if Redis loses its data."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        ...

    @property
    def is_last_attempt(self) -> bool: ...

    @property
    def waited_seconds(self) -> float:
        """How long the job was in line before this attempt."""
        ...

    @property
    def lost(self) -> Signal:
        """Set when the lease has passed to another worker: write nothing more."""
        ...

    @property
    def cancelled(self) -> Signal:
        """Set when the job was cancelled."""
        ...

    @property
    def stopping(self) -> Signal:
        """Set when this process is asked to stop: long jobs should call `release` and return."""
        ...

    def done(self, next_jobs: Sequence[Job] = ()) -> None:
        """Ends the job and enqueues its successors, in one step. A slot that no successor names is freed."""
        ...

    def retry(self, delay_seconds: float) -> None:
        """Repeats the job after the delay. It counts as an attempt; the slot is kept."""
        ...

    def release(self, delay_seconds: float = 0.0) -> None:
        """Returns the job to its old place in line. The attempt is refunded; the slot is kept."""
        ...

    def wait_for_slot(self, delay_seconds: float = 0.0) -> None:
        """Does as `release` does, and frees the slot unless another job has it."""
        ...
