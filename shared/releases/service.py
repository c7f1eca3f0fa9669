"""Accepts rollbacks and promotions. Workers carry them out (workers/jobs/release_runner.py)."""

from __future__ import annotations

import structlog

from schemas.deployments import DeploymentResource
from shared.db.database import Database
from shared.deployments.deployment_resource import deployment_resource
from shared.deployments.jobs import release_job
from shared.deployments.repository import DeploymentRepository
from shared.deployments.rows import DeploymentRow
from shared.deployments.service import Record
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import DeploymentStatus, SiteState
from shared.errors import Conflict, ErrorCode, NotFound, Unavailable
from shared.identifiers import new_identifier
from shared.plans import limits_of
from shared.queue.base import JobQueue
from shared.releases.repository import NewRelease, ReleaseKind, ReleaseRepository
from shared.settings import SiteSettings
from shared.tracing import current_traceparent

_PREFIX = "rel"
_log = structlog.get_logger(__name__)


class ReleaseService:
    def __init__(
        self,
        *,
        database: Database,
        deployments: DeploymentRepository,
        stage_runs: StageRunRepository,
        releases: ReleaseRepository,
        queue: JobQueue,
        site_settings: SiteSettings,
    ) -> None:
        self._database = database
        self._deployments = deployments
        self._stage_runs = stage_runs
        self._releases = releases
        self._queue = queue
        self._site_settings = site_settings

    def rollback(
        self, tenant_id: str, deployment_id: str, *, requested_by: str | None, record: Record | None = None
    ) -> DeploymentResource:
        """Makes production serve this earlier deployment and pins the project."""
        return self._release(tenant_id, deployment_id, ReleaseKind.ROLLBACK, requested_by, record)

    def promote(
        self, tenant_id: str, deployment_id: str, *, requested_by: str | None, record: Record | None = None
    ) -> DeploymentResource:
        """Makes production serve this deployment until a later one replaces it."""
        return self._release(tenant_id, deployment_id, ReleaseKind.PROMOTE, requested_by, record)

    def _release(
        self, tenant_id: str, deployment_id: str, kind: ReleaseKind, requested_by: str | None, record: Record | None
    ) -> DeploymentResource:
        found = self._deployments.find(tenant_id, deployment_id)
        if found is None:
            raise NotFound("There is no such deployment.")
        traceparent = current_traceparent()
        with self._database.transaction() as connection:
            # Lock the project first, as everywhere: a deployment that becomes ready locks both too.
            project = self._deployments.take_release_sequence(connection, tenant_id, found.project_id)
            if project is None:
                raise Conflict("The project is being deleted.", code=ErrorCode.PROJECT_DELETING)
            row = self._deployments.find_locked(connection, tenant_id, deployment_id)
            if row is None or row.deleting_at is not None:
                raise NotFound("There is no such deployment.")
            _check_releasable(row, kind)
            release_id = new_identifier(_PREFIX)
            self._releases.insert(
                connection,
                NewRelease(
                    id=release_id,
                    tenant_id=tenant_id,
                    project_id=row.project_id,
                    deployment_id=deployment_id,
                    kind=kind,
                    release_sequence=project.release_sequence,
                    requested_by=requested_by,
                    traceparent=traceparent,
                ),
            )
            runs = self._stage_runs.of_deployments(connection, [deployment_id])[deployment_id]
            resource = deployment_resource(row, runs, self._site_settings)
            if record is not None:
                record(connection, resource)
        limits = limits_of(row.tenant_plan)
        try:
            self._queue.enqueue(
                release_job(release_id=release_id, tenant_id=tenant_id, limits=limits, traceparent=traceparent)
            )
        except Unavailable as error:
            # A committed release is accepted; the reconciler enqueues missing jobs.
            _log.warning("release.not_enqueued", release_id=release_id, error=error.message)
        return resource


def _check_releasable(row: DeploymentRow, kind: ReleaseKind) -> None:
    if row.status != DeploymentStatus.READY:
        raise Conflict(
            f"The deployment is {row.status}; only one that is ready can be released.", code=ErrorCode.NOT_READY
        )
    if row.is_preview:
        raise Conflict(f"A preview can't be the target of a {kind}; deploy its branch to production instead.")
    if row.site_state in (SiteState.REMOVING, SiteState.REMOVED):
        raise Conflict(
            "The deployment's files are no longer kept; deploy its commit again.", code=ErrorCode.ARTIFACT_EXPIRED
        )
