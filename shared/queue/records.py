"""What the queue answers to those who run its jobs and to those who look after it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from schemas.messages import Job


class Outcome(enum.StrEnum):
    DONE = "done"
    RETRY = "retry"  # later, as another attempt; dead when it was the last
    RELEASE = "release"  # back in its old place, the attempt refunded
    WAIT = "wait"  # back in its old place, the attempt refunded and the slot given up
    DEAD = "dead"


class BeatAnswer(enum.IntEnum):
    RENEWED = 0
    LOST = 1
    CANCELLED = 2  # renewed, and the job was cancelled


@dataclass(frozen=True, slots=True)
class AcquiredJob:
    """A job that was handed out. `attempt` is 1 the first time; `token` grows over all acquisitions."""

    job: Job
    token: int
    attempt: int
    is_cancelled: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """`next_due_seconds`: until the pool's next delayed job is due or lease expires, None when there is neither.

    `applied`: for each finish that was sent along, whether the lease was the sender's and was ended.
    """

    jobs: tuple[AcquiredJob, ...]
    next_due_seconds: float | None
    applied: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class HandedBack:
    """What a dead worker held. `returned`: jobs that are in line again; `lost`: those that take no other worker."""

    returned: int
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`died_at` is in seconds since the epoch, by the queue's clock."""

    job: Job
    attempts: int
    died_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A live worker process, once for each pool that it serves.

    `seen_at`: when it last registered, in seconds since the epoch by the queue's clock; the queue sets it.
    """

    pool: str
    worker: str
    threads: int
    busy: int
    seen_at: float = field(default=0.0, compare=False)
