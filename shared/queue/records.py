"""The queue's answers to workers and operators."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from schemas.messages import Job

# Processes that register and serve no pool. A pool can't have one of these names.
ROLES = ("api", "exporter", "reconciler")


class Disposition(enum.StrEnum):
    """What the queue does with a job whose lease ends."""

    DONE = "done"
    RETRY = "retry"  # repeated later, as another attempt; dead if it was the last
    RELEASE = "release"  # returned to its old place, the attempt refunded
    WAIT = "wait"  # returned to its old place, the attempt refunded and the slot freed
    DEAD = "dead"


class BeatAnswer(enum.IntEnum):
    RENEWED = 0
    LOST = 1
    CANCELLED = 2  # renewed, and the job was cancelled


@dataclass(frozen=True, slots=True)
class AcquiredJob:
    """A job with its lease. `attempt` is 1 for the first one; `token` grows over all acquisitions.

    `waited_seconds`: how long the job was in line, since it was last put there.
    """

    job: Job
    token: int
    attempt: int
    is_cancelled: bool
    waited_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """The answer to an acquire.

    `next_due_seconds`: until the pool's next delayed job is due or lease expires, None if there is neither.
    `applied`: for each finish in the request, whether the sender still held the lease, which has then ended.
    """

    jobs: tuple[AcquiredJob, ...]
    next_due_seconds: float | None
    applied: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class HandBackAnswer:
    """The jobs of a dead worker: how many are back in line, and the ids of those that are dead now."""

    returned: int
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that won't run again by itself. `died_at` is in seconds since the epoch, by the queue's clock."""

    job: Job
    attempts: int
    died_at: float
    reason: str


class WorkerState(enum.StrEnum):
    """What a process does about new work."""

    RUNNING = "running"
    DRAINING = "draining"  # it takes nothing new, and ends when its jobs have
    PAUSED = "paused"  # it has paused itself; the reason says why


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A live process: a worker, with one record for each pool that it serves, or one of another role (see ROLES).

    `seen_at`: when it last registered, in seconds since the epoch by the queue's clock. The queue sets it.
    `reason`: why it is paused, or what else its operator should know.
    """

    pool: str
    worker: str
    threads: int
    busy: int
    seen_at: float = field(default=0.0, compare=False)
    host: str = ""
    version: str = ""
    state: WorkerState = WorkerState.RUNNING
    reason: str = ""
