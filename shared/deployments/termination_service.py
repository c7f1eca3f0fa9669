"""Ends deployments that no worker holds."""

from __future__ import annotations

from schemas.logs import LogEnd, LogLine, LogStatus
from shared.clock import Clock, unix_milliseconds
from shared.db.database import Database
from shared.deployments.jobs import stage_job_of
from shared.deployments.repository import DeploymentRepository
from shared.deployments.rows import DeploymentRow
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import FIRST_STAGE, DeploymentStatus, Stage
from shared.errors import Unavailable
from shared.logs.base import LogStore, Notifier
from shared.plans import limits_of
from shared.queue.base import JobQueue
from shared.text.storable import storable


class TerminationService:
    """A deployment with a running stage is ended by its worker instead; see workers/pipeline/lifecycle.py."""

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
    ) -> None:
        self._database = database
        self._deployments = deployments
        self._stage_runs = stage_runs
        self._queue = queue
        self._log_store = log_store
        self._notifier = notifier
        self._clock = clock

    def end_cancelled(self, row: DeploymentRow) -> None:
        """Ends a deployment whose cancellation was requested and which has no job in the queue.

        A stage that has started may still run on a worker that is stopped or cut off from the queue. So its job is
        enqueued again: the worker that takes it kills remaining processes and confirms the cancellation.
        """
        stage = self._stage_runs.running_stage(row.id)
        if stage is None:
            if self.finish_cancelled(row):
                self._free_slot(row)
            return
        limits = limits_of(row.tenant_plan)
        try:
            # It had a slot and must not wait for one behind other builds.
            self._queue.hold_slot(row.tenant_id, row.id, limit=limits.concurrent_builds, weight=limits.weight)
            self._queue.enqueue(stage_job_of(row, stage))
        except Unavailable:
            # The reconciler enqueues missing jobs.
            return

    def finish_cancelled(self, row: DeploymentRow) -> bool:
        """Cancels a deployment that no worker holds. Returns False if it has finished or a worker has taken it since
        `row` was read."""
        end = LogEnd(timestamp=unix_milliseconds(self._clock.now()), status=DeploymentStatus.CANCELLED)
        return self._finish(row, DeploymentStatus.CANCELLED, end, error=None)

    def finish_failed(self, row: DeploymentRow, code: str, stage: Stage | None, message: str) -> bool:
        """Fails a deployment that no worker holds. Returns False if it has finished or a worker has taken it since
        `row` was read."""
        message = storable(message)
        end = LogEnd(
            timestamp=unix_milliseconds(self._clock.now()),
            status=DeploymentStatus.FAILED,
            error={"code": code, "stage": stage, "message": message},
        )
        return self._finish(row, DeploymentStatus.FAILED, end, error=(code, stage, message))

    def _finish(
        self, row: DeploymentRow, status: DeploymentStatus, end: LogEnd, error: tuple[str, str | None, str] | None
    ) -> bool:
        deployment_id, fence = row.id, row.fence
        entries = [LogStatus(timestamp=end.timestamp, status=status), end]
        if error is not None:
            stage = error[1] or FIRST_STAGE
            entries = [LogLine(timestamp=end.timestamp, stage=stage, stream="system", text=error[2]), *entries]
        with self._database.transaction() as connection:
            if not self._deployments.finish(connection, deployment_id, status, fence=fence, error=error):
                return False
            run_status = "cancelled" if status == DeploymentStatus.CANCELLED else "failed"
            self._stage_runs.end(connection, deployment_id, status=run_status, fence=fence)
            first, last = self._log_store.append(connection, deployment_id, entries, fence=None)
        # A full log stores its truncation mark instead of the line. Without the line here, watchers read the store.
        self._notifier.notify(deployment_id, first, last, entries[-2:])
        return True

    def _free_slot(self, row: DeploymentRow) -> None:
        try:
            self._queue.free_slot(row.tenant_id, row.id)
        except Unavailable:
            # The reconciler frees the slots of finished deployments.
            return
