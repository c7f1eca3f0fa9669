"""The actors of a pool: thin, they hand the lease of the running job to the runner."""

from __future__ import annotations

import time
from collections.abc import Callable

import dramatiq
from structlog.contextvars import bound_contextvars

from schemas.messages import CLEANUP_ACTOR, RELEASE_ACTOR, STAGE_ACTOR
from shared import metrics
from shared.deployments.state import Pool, Stage
from shared.queue.base import Lease
from shared.tracing import span
from workers.pipeline.outcome import Cancelled, HandedBack, Ignored, Outcome, Over, Succeeded, Waiting

ACTOR_OF_POOL: dict[Pool, str] = {
    **{Pool(stage.value): STAGE_ACTOR for stage in Stage},
    Pool.ROLLBACK: RELEASE_ACTOR,
    Pool.PREVIEW_CLEANUP: CLEANUP_ACTOR,
}

# Runs a job and returns its outcome. Never raises.
Run = Callable[[Lease], Outcome[object]]

# Of outcomes, those that nobody has to look at.
_GOOD = frozenset({Succeeded.name, Ignored.name, Cancelled.name, Over.name, HandedBack.name, Waiting.name})

# What a job is about, by the names of its payload.
_SUBJECTS = ("deployment_id", "stage", "release_id", "subject_id")


def log_fields(lease: Lease) -> dict[str, str | int | None]:
    """The job's id, attempt and fencing token, and the deployment and stage (or other subject) that it is for."""
    payload = lease.job.payload
    subject = {name: payload[name] for name in _SUBJECTS if name in payload}
    return {"job": lease.job.id, **subject, "attempt": lease.attempt, "fence": lease.token}


def declare_actor(
    broker: dramatiq.Broker,
    pool: Pool,
    run: Run,
    current_lease: Callable[[], Lease | None],
    *,
    worker: str,
    observe: Callable[[Lease, Outcome[object]], None],
) -> None:
    """Declares the pool's one actor on the broker. The API enqueues by its name, never by importing it.

    Whatever is logged on the job's thread says which job it is about, and who runs it. Every job is counted and timed.
    `observe` gets every outcome.
    """

    def perform(payload: dict[str, object]) -> None:
        lease = current_lease()
        assert lease is not None, "the broker's middleware sets it around every message"
        metrics.observe_wait(pool.value, lease.waited_seconds)
        started = time.monotonic()
        fields = log_fields(lease)
        attributes = {f"cloudify.{name}": value for name, value in fields.items()}
        with (
            span(f"job {pool.value}", attributes, parent=lease.job.traceparent, kind="consumer") as job_span,
            bound_contextvars(**fields, worker=worker),
        ):
            outcome = run(lease)
            observe(lease, outcome)
            job_span.set("cloudify.outcome", outcome.name)
            if outcome.name not in _GOOD:
                job_span.fail(outcome.name)
        metrics.observe_message(pool.value, actor, outcome.name, time.monotonic() - started)

    actor = ACTOR_OF_POOL[pool]
    dramatiq.actor(actor_name=actor, queue_name=pool.value, broker=broker)(perform)
