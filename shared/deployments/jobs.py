"""Builds the jobs of the queue: the one place that knows the payload of each kind."""

from __future__ import annotations

from datetime import datetime

from schemas.messages import CLEANUP_ACTOR, RELEASE_ACTOR, STAGE_ACTOR, Job
from shared.clock import unix_milliseconds
from shared.deployments.rows import DeploymentRow
from shared.deployments.state import Pool, Stage
from shared.identifiers import DEPLOYMENT, is_identifier
from shared.plans import PlanLimits, limits_of

STAGE_ATTEMPTS = 6


def stage_job_id(deployment_id: str, stage: Stage) -> str:
    return f"{deployment_id}:{stage.value}"


def deployment_of_job(job_id: str) -> str | None:
    """Returns the deployment of a stage's job, or None for any other job."""
    subject, _, stage = job_id.partition(":")
    return subject if is_identifier(subject, DEPLOYMENT) and stage in set(Stage) else None


def stage_job(
    *,
    deployment_id: str,
    tenant_id: str,
    stage: Stage,
    priority: int,
    limits: PlanLimits,
    enqueued_at: datetime | None = None,
    traceparent: str | None = None,
) -> Job:
    """One stage of one deployment. With `enqueued_at`, a deployment that is enqueued again keeps its old position."""
    return Job(
        id=stage_job_id(deployment_id, stage),
        pool=Pool(stage.value).value,
        actor=STAGE_ACTOR,
        tenant_id=tenant_id,
        payload={"deployment_id": deployment_id, "tenant_id": tenant_id, "stage": stage.value},
        slot=deployment_id,
        priority=priority,
        tenant_limit=limits.concurrent_builds,
        tenant_weight=limits.weight,
        max_attempts=STAGE_ATTEMPTS,
        enqueued_at_ms=None if enqueued_at is None else unix_milliseconds(enqueued_at),
        traceparent=traceparent,
    )


def stage_job_of(row: DeploymentRow, stage: Stage) -> Job:
    """The job of a stage of this deployment, positioned by the deployment's age."""
    return stage_job(
        deployment_id=row.id,
        tenant_id=row.tenant_id,
        stage=stage,
        priority=row.priority,
        limits=limits_of(row.tenant_plan),
        enqueued_at=row.created_at,
        traceparent=row.traceparent,
    )


def release_job_id(release_id: str) -> str:
    return f"release:{release_id}"


def release_job(*, release_id: str, tenant_id: str, limits: PlanLimits, traceparent: str | None = None) -> Job:
    """A rollback or promotion. It takes no slot, so it never waits for builds."""
    return Job(
        id=release_job_id(release_id),
        pool=Pool.ROLLBACK.value,
        actor=RELEASE_ACTOR,
        tenant_id=tenant_id,
        payload={"release_id": release_id, "tenant_id": tenant_id},
        priority=0,
        tenant_limit=limits.concurrent_builds,
        tenant_weight=limits.weight,
        max_attempts=STAGE_ATTEMPTS,
        traceparent=traceparent,
    )


def cleanup_job_id(subject_id: str) -> str:
    return f"cleanup:{subject_id}"


def cleanup_job(*, subject_id: str, tenant_id: str, limits: PlanLimits) -> Job:
    """Removes the site of a deployment, or a whole project; `subject_id` is the id of either."""
    return Job(
        id=cleanup_job_id(subject_id),
        pool=Pool.PREVIEW_CLEANUP.value,
        actor=CLEANUP_ACTOR,
        tenant_id=tenant_id,
        payload={"subject_id": subject_id, "tenant_id": tenant_id},
        tenant_limit=limits.concurrent_builds,
        tenant_weight=limits.weight,
        max_attempts=STAGE_ATTEMPTS,
    )
