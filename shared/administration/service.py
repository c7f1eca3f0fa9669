"""Administration of the queue: its state, pausing pools, retrying and dropping dead letters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import structlog

from schemas.administration import DeadJobResource, JobPlace, QueueResource
from shared.deployments.jobs import deployment_of_job
from shared.deployments.repository import DeploymentRepository
from shared.deployments.state import Pool
from shared.errors import Conflict, ErrorCode, NotFound
from shared.queue.base import PoolStats
from shared.queue.records import DeadLetter, WorkerRecord

_log = structlog.get_logger(__name__)


class OperatedQueue(Protocol):
    """The part of shared.queue.job_queue that this service uses. Every call may raise QueueUnavailable."""

    def stats(self) -> list[PoolStats]: ...

    def workers(self) -> list[WorkerRecord]: ...

    def pause(self, pool: str) -> None: ...

    def resume(self, pool: str) -> None: ...

    def find(self, job_id: str) -> str | None: ...

    def dead_letters(self, pool: str, *, limit: int = 100) -> list[DeadLetter]: ...

    def requeue_dead(self, job_id: str) -> bool: ...

    def drop_dead(self, job_id: str) -> bool: ...


class QueueAdministrationService:
    def __init__(self, *, queue: OperatedQueue, deployments: DeploymentRepository) -> None:
        self._queue = queue
        self._deployments = deployments

    def queues(self) -> list[QueueResource]:
        """Returns every pool of the platform, used or not, in the pipeline's order, then other pools in the queue."""
        stats = {row.pool: row for row in self._queue.stats()}
        workers = self._queue.workers()
        names = [*Pool, *sorted(stats.keys() - set(Pool))]
        return [_queue_resource(str(name), stats.get(name), workers) for name in names]

    def pause(self, pool: str) -> QueueResource:
        """Stops handing out jobs of the pool. Running jobs are not interrupted. Raises NotFound."""
        self._check_pool(pool)
        self._queue.pause(pool)
        _log.warning("queue.paused", pool=pool)
        return self._find(pool)

    def resume(self, pool: str) -> QueueResource:
        self._check_pool(pool)
        self._queue.resume(pool)
        _log.warning("queue.resumed", pool=pool)
        return self._find(pool)

    def dead_jobs(self, *, pool: str | None = None, limit: int = 100) -> list[DeadJobResource]:
        """Returns dead letters, the newest first. Raises NotFound if there is no such pool."""
        if pool is not None:
            self._check_pool(pool)
        pools = [pool] if pool is not None else [row.pool for row in self._queue.stats() if row.dead]
        found = [_dead_job(letter) for name in pools for letter in self._queue.dead_letters(name, limit=limit)]
        return sorted(found, key=lambda job: (job.died_at, job.id), reverse=True)[:limit]

    def retry(self, job_id: str) -> JobPlace:
        """Puts a dead letter back into the queue and resets its attempts.

        Raises NotFound, Conflict if the job is not dead, and Conflict (ALREADY_FINISHED) if its deployment has
        finished: the job would have nothing to do.
        """
        self._check_dead(job_id)
        deployment_id = deployment_of_job(job_id)
        if deployment_id is not None and not self._deployments.is_live(deployment_id):
            raise Conflict(
                f"The deployment {deployment_id} has finished, so its job can't continue. Redeploy it instead "
                f"(POST /api/deployments/{deployment_id}/trigger, or `cloudify deploy`), and drop this job.",
                code=ErrorCode.ALREADY_FINISHED,
            )
        if not self._queue.requeue_dead(job_id):
            raise _was_quicker(job_id)
        _log.warning("queue.job_retried", job=job_id, deployment_id=deployment_id)
        return JobPlace(id=job_id, state=self._queue.find(job_id) or "done")

    def drop(self, job_id: str) -> JobPlace:
        """Deletes a dead letter. Raises NotFound, Conflict if it isn't dead or an unfinished deployment needs it."""
        self._check_dead(job_id)
        deployment_id = deployment_of_job(job_id)
        if deployment_id is not None and self._deployments.is_live(deployment_id):
            raise Conflict(
                f"The deployment {deployment_id} is not finished and needs this job; retry it, or end the deployment "
                f"with `cloudify cancel {deployment_id}`."
            )
        if not self._queue.drop_dead(job_id):
            raise _was_quicker(job_id)
        _log.warning("queue.job_dropped", job=job_id, deployment_id=deployment_id)
        return JobPlace(id=job_id, state="dropped")

    def _find(self, pool: str) -> QueueResource:
        return next(queue for queue in self.queues() if queue.pool == pool)

    def _check_pool(self, pool: str) -> None:
        known = [*Pool, *(row.pool for row in self._queue.stats() if row.pool not in set(Pool))]
        if pool not in known:
            raise NotFound(f"There is no pool {pool[:50]!r}; the pools are {', '.join(known)}.")

    def _check_dead(self, job_id: str) -> None:
        place = self._queue.find(job_id)
        if place is None:
            raise NotFound("The queue holds no such job; `cloudify queue dead` lists the dead letters.")
        if place != "dead":
            raise Conflict(f"The job is {place}; only dead letters can be retried or dropped.")


def _was_quicker(job_id: str) -> Conflict:
    return Conflict(f"The job {job_id} was retried or dropped by another meanwhile.")


def _queue_resource(pool: str, stats: PoolStats | None, workers: list[WorkerRecord]) -> QueueResource:
    mine = [worker for worker in workers if worker.pool == pool]
    return QueueResource(
        pool=pool,
        depth=stats.depth if stats else 0,
        running=stats.inflight if stats else 0,
        delayed=stats.delayed if stats else 0,
        dead=stats.dead if stats else 0,
        waiting_for_slot=stats.waiting_for_slot if stats else 0,
        oldest_age_seconds=stats.oldest_age_seconds if stats else 0.0,
        is_paused=stats is not None and stats.is_paused,
        workers=len(mine),
        threads=sum(worker.threads for worker in mine),
        busy_threads=sum(worker.busy for worker in mine),
    )


def _dead_job(letter: DeadLetter) -> DeadJobResource:
    return DeadJobResource(
        id=letter.job.id,
        pool=letter.job.pool,
        tenant_id=letter.job.tenant_id,
        deployment_id=deployment_of_job(letter.job.id),
        attempts=letter.attempts,
        reason=letter.reason,
        died_at=datetime.fromtimestamp(letter.died_at, UTC),
    )
