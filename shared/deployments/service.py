"""Creates, reads, cancels and deletes deployments for clients.

PostgreSQL is the source of truth. An accepted deployment is a committed row; if the following enqueueing fails, the
reconciler enqueues the job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.deployments import CreateDeploymentRequest, DeploymentResource, QueuePosition
from schemas.logs import LogStatus
from schemas.messages import Job
from shared.clock import Clock, unix_milliseconds
from shared.db.database import Connection, Database
from shared.db.paging import Page, PageRequest
from shared.deployments.deployment_input import preview_label, validate_deployment
from shared.deployments.deployment_resource import deployment_resource
from shared.deployments.jobs import cleanup_job, stage_job_id, stage_job_of
from shared.deployments.repository import DeploymentRepository
from shared.deployments.rows import DeployableProject, DeploymentFilters, DeploymentRow, NewDeployment
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import FINISHED, FIRST_STAGE, DeploymentStatus, SiteState, Stage
from shared.deployments.termination_service import TerminationService
from shared.errors import Conflict, ErrorCode, NotFound, Unavailable, ValidationFailed
from shared.identifiers import DEPLOYMENT, new_identifier
from shared.logs.base import LogStore, Notifier
from shared.plans import limits_of
from shared.queue.base import CancelAnswer, JobQueue
from shared.queue.errors import QueueFull
from shared.settings import SiteSettings
from shared.tracing import current_traceparent

Record = Callable[[Connection, DeploymentResource], None]


class DeploymentService:
    def __init__(
        self,
        *,
        database: Database,
        deployments: DeploymentRepository,
        stage_runs: StageRunRepository,
        queue: JobQueue,
        log_store: LogStore,
        notifier: Notifier,
        clock: Clock,
        terminations: TerminationService,
        site_settings: SiteSettings,
    ) -> None:
        self._database = database
        self._deployments = deployments
        self._stage_runs = stage_runs
        self._queue = queue
        self._log_store = log_store
        self._notifier = notifier
        self._clock = clock
        self._terminations = terminations
        self._site_settings = site_settings

    # Reading

    def tenant_of(self, deployment_id: str) -> str | None:
        return self._deployments.find_tenant(deployment_id)

    def get(self, tenant_id: str, deployment_id: str) -> DeploymentResource:
        row = self._get_row(tenant_id, deployment_id)
        resource = self._resources([row])[0]
        if row.status not in FINISHED:
            resource.queue = self._explain(row)
        return resource

    def list(
        self,
        tenant_ids: Sequence[str],
        *,
        page: PageRequest,
        project_id: str | None = None,
        statuses: Sequence[DeploymentStatus] = (),
        branch: str | None = None,
        is_preview: bool | None = None,
        is_active: bool | None = None,
    ) -> Page[DeploymentResource]:
        filters = DeploymentFilters(
            project_id=project_id, statuses=statuses, branch=branch, is_preview=is_preview, is_active=is_active
        )
        rows = self._deployments.page(tenant_ids, page, filters)
        return Page(self._resources(rows.items), rows.position, rows.total)

    def explain(self, tenant_id: str, deployment_id: str) -> QueuePosition | None:
        """Returns why the deployment waits; None if it has finished or the queue doesn't know it."""
        row = self._get_row(tenant_id, deployment_id)
        return None if row.status in FINISHED else self._explain(row)

    # Creating

    def create(
        self,
        tenant_id: str,
        request: CreateDeploymentRequest,
        *,
        created_by: str | None,
        trigger: str = "api",
        record: Record | None = None,
    ) -> DeploymentResource:
        """Accepts a deployment: commits its row, then enqueues its first stage.

        With `if_changed` it ends as ignored if there is nothing new to build or its commit message has [skip ci].
        `record` runs in the same transaction. Raises NotFound, Conflict (PROJECT_DELETING), ValidationFailed, and
        Unavailable (QUEUE_UNAVAILABLE) if the tenant has as many unfinished ones as its plan allows.
        """
        validate_deployment(branch=request.branch, commit_sha=request.commit_sha, priority=request.priority)
        with self._database.transaction() as connection:
            self._admit(connection, tenant_id)
            project = self._deployments.take_release_sequence(connection, tenant_id, request.project_id)
            if project is None:
                raise NotFound("There is no such project, or it is being deleted; check projectId.")
            deployment = _new_deployment(
                tenant_id, request, project, created_by=created_by, trigger=trigger, traceparent=current_traceparent()
            )
            self._deployments.insert(connection, deployment, preview_days=self._site_settings.preview_days)
            entry = LogStatus(timestamp=unix_milliseconds(self._clock.now()), status=DeploymentStatus.QUEUED)
            first, last = self._log_store.append(connection, deployment.id, [entry], fence=None)
            row = self._deployments.get_in(connection, deployment.id)
            resource = deployment_resource(row, [], self._site_settings)
            if record is not None:
                record(connection, resource)
        self._notifier.notify(deployment.id, first, last, [entry])
        self._enqueue(stage_job_of(row, FIRST_STAGE))
        return resource

    def redeploy(
        self, tenant_id: str, deployment_id: str, *, created_by: str | None, record: Record | None = None
    ) -> DeploymentResource:
        """Creates a deployment of the same commit, or of the branch if the commit was never resolved, or as the project
        says if neither was."""
        row = self._get_row(tenant_id, deployment_id)
        request = CreateDeploymentRequest(
            project_id=row.project_id,
            branch=None if row.awaits_branch else row.branch,
            commit_sha=row.commit_sha,
            is_preview=row.is_preview,
            priority=row.priority,
        )
        return self.create(tenant_id, request, created_by=created_by, trigger="redeploy", record=record)

    # Ending

    def cancel(self, tenant_id: str, deployment_id: str) -> DeploymentResource:
        """Requests cancellation. A waiting deployment ends at once, a running one when its worker has stopped it."""
        with self._database.transaction() as connection:
            row = self._deployments.find_locked(connection, tenant_id, deployment_id)
            if row is None:
                raise _not_found()
            if row.status == DeploymentStatus.CANCELLED:
                return self._resources([row])[0]
            if row.status in FINISHED:
                raise Conflict(
                    f"The deployment is already {row.status}; there is nothing to cancel.",
                    code=ErrorCode.ALREADY_FINISHED,
                )
            if row.site_state == SiteState.PUBLISHED:
                raise Conflict("The deployment's site is already published.", code=ErrorCode.ALREADY_FINISHED)
            self._deployments.request_cancel(connection, tenant_id, deployment_id)
        # The request is durable now: if the queue is unavailable, the worker or the reconciler finds it in the row.
        try:
            # End the row before freeing the slot. Otherwise another deployment could start while this one still counts.
            answers = {self._queue.cancel(stage_job_id(deployment_id, stage), keeps_slot=True) for stage in Stage}
        except Unavailable:
            answers = {CancelAnswer.SIGNALLED}
        if CancelAnswer.SIGNALLED not in answers:
            self._terminations.end_cancelled(row)
        return self.get(tenant_id, deployment_id)

    def delete(self, tenant_id: str, deployment_id: str) -> None:
        """Hides a finished deployment at once. A job removes it and its site."""
        with self._database.transaction() as connection:
            row = self._deployments.find_locked(connection, tenant_id, deployment_id)
            if row is None or row.deleting_at is not None:
                raise _not_found()
            if row.is_active or row.status not in FINISHED:
                reason = "is served in production; roll back" if row.is_active else "is still running; cancel it"
                raise Conflict(f"The deployment {reason} first.", code=ErrorCode.DEPLOYMENT_ACTIVE)
            self._deployments.set_deleting(connection, deployment_id)
        limits = limits_of(row.tenant_plan)
        self._enqueue(cleanup_job(subject_id=deployment_id, tenant_id=tenant_id, limits=limits))

    # Within

    def _admit(self, connection: Connection, tenant_id: str) -> None:
        plan = self._deployments.lock_tenant(connection, tenant_id)
        if plan is None:
            raise NotFound("There is no such account.")
        limits = limits_of(plan)
        if self._deployments.count_live(connection, tenant_id) >= limits.maximum_queued:
            raise QueueFull(
                f"The account has {limits.maximum_queued} unfinished deployments, as many as its plan allows; "
                "wait for some to finish or cancel them.",
                retry_after_seconds=30,
            )

    def _enqueue(self, job: Job) -> None:
        try:
            self._queue.enqueue(job)
        except Unavailable:
            # A committed deployment is accepted; the reconciler enqueues missing jobs.
            return

    def _get_row(self, tenant_id: str, deployment_id: str) -> DeploymentRow:
        row = self._deployments.find(tenant_id, deployment_id)
        if row is None:
            raise _not_found()
        return row

    def _resources(self, rows: Sequence[DeploymentRow]) -> list[DeploymentResource]:
        with self._database.transaction() as connection:
            runs = self._stage_runs.of_deployments(connection, [row.id for row in rows])
        return [deployment_resource(row, runs[row.id], self._site_settings) for row in rows]

    def _explain(self, row: DeploymentRow) -> QueuePosition | None:
        try:
            for stage in Stage:
                found = self._queue.explain(stage_job_id(row.id, stage))
                if found is not None:
                    estimate = found.estimated_start_seconds
                    return QueuePosition(
                        pool=found.pool,
                        position=found.position,
                        reason=found.reason,
                        holders=list(found.holders),
                        estimated_start_seconds=None if estimate is None else list(estimate),
                    )
        except Unavailable:
            return None
        return None


def _new_deployment(
    tenant_id: str,
    request: CreateDeploymentRequest,
    project: DeployableProject,
    *,
    created_by: str | None,
    trigger: str,
    traceparent: str | None,
) -> NewDeployment:
    """Raises ValidationFailed when the project has no repository."""
    if not project.repository_url:
        raise ValidationFailed({"projectId": "the project has no repository; set its repositoryUrl first"})
    deployment_id = new_identifier(DEPLOYMENT)
    named = request.branch or project.repository_branch
    probable = named or project.default_branch
    # A host name is given before the branch is known. It may name a default branch of the past, never another one.
    label = preview_label(project.slug, probable or "default", deployment_id)
    return NewDeployment(
        id=deployment_id,
        tenant_id=tenant_id,
        project_id=request.project_id,
        created_by=created_by,
        trigger=trigger,
        repository_url=project.repository_url,
        repository_set_by=project.repository_set_by,
        branch=probable or "main",
        awaits_branch=named is None,
        commit_sha=request.commit_sha,
        settings=project.settings,
        is_preview=request.is_preview,
        clean=request.clean,
        if_changed=request.if_changed,
        priority=request.priority,
        release_sequence=project.release_sequence,
        host=label if request.is_preview else project.slug,
        traceparent=traceparent,
    )


def _not_found() -> NotFound:
    return NotFound("There is no such deployment.")
