"""The representation of a deployment for clients."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.deployments import DeploymentError, DeploymentResource, StageRunResource
from schemas.projects import ProjectReference
from shared.deployments.rows import DeploymentRow
from shared.deployments.stage_run_repository import StageRunRow
from shared.deployments.state import DeploymentStatus, SiteState, Stage
from shared.settings import SiteSettings


def deployment_resource(row: DeploymentRow, runs: Sequence[StageRunRow], sites: SiteSettings) -> DeploymentResource:
    """`runs` are the deployment's stage runs in the order in which they started."""
    finished, started = row.finished_at, row.started_at
    error = None
    if row.error_code is not None:
        error = DeploymentError(code=row.error_code, stage=row.error_stage, message=row.error_message or "")
    is_ready = row.status == DeploymentStatus.READY
    return DeploymentResource(
        id=row.id,
        project_id=row.project_id,
        project=ProjectReference(name=row.project_name, slug=row.project_slug),
        status=row.status,
        branch=None if row.awaits_branch else row.branch,
        commit_sha=row.commit_sha,
        commit_message=row.commit_message,
        url=sites.url(row.host) if is_ready and row.site_state == SiteState.PUBLISHED else None,
        build_time_seconds=(finished - started).total_seconds() if finished and started else None,
        is_active=row.is_active,
        is_preview=row.is_preview,
        created_at=row.created_at,
        started_at=started,
        finished_at=finished,
        stages=[_stage_run(run) for run in runs],
        error=error,
        ignored=row.ignored_reason,
        warnings=[text for stage in Stage for text in row.warnings.get(stage.value, [])],
        queue=None,
        created_by=row.created_by,
        trigger=row.trigger,
    )


def _stage_run(run: StageRunRow) -> StageRunResource:
    finished = run.finished_at
    return StageRunResource(
        stage=run.stage,
        status=run.status,
        attempt=run.attempt,
        is_cache_hit=run.is_cache_hit,
        started_at=run.started_at,
        finished_at=finished,
        duration_seconds=(finished - run.started_at).total_seconds() if finished else None,
    )
