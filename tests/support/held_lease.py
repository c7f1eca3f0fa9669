"""A lease without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.messages import Job
from shared.signals import Signal


class HeldLease:
    """A lease that records its outcome."""

    def __init__(self, job: Job, token: int, attempt: int = 1) -> None:
        self.job, self.token, self.attempt = job, token, attempt
        self.is_last_attempt = attempt >= job.max_attempts
        self.lost, self.cancelled, self.stopping = Signal(), Signal(), Signal()
        self.waited_seconds = 0.0
        self.outcome: tuple[str, Any] = ("none", None)

    def done(self, next_jobs: Sequence[Job] = ()) -> None:
        self.outcome = ("done", [job.id for job in next_jobs])

    def retry(self, delay_seconds: float) -> None:
        self.outcome = ("retry", delay_seconds)

    def release(self, delay_seconds: float = 0.0) -> None:
        self.outcome = ("release", delay_seconds)

    def wait_for_slot(self, delay_seconds: float = 0.0) -> None:
        self.outcome = ("wait", delay_seconds)
