"""A deployment's life as its workers write it: every step one transaction, fenced, with its entry in the log.

A step that finds the deployment finished or another's raises LeaseLost or says so; it never changes anything then.
Steps wait out a database that is away for up to a minute; the queue's retries cover what is longer.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from schemas.logs import LogEnd, LogEntry, LogStatus
from shared.clock import Clock, unix_milliseconds
from shared.db.database import Connection, Database
from shared.deployments.repository import DeploymentRepository
from shared.deployments.rows import DeploymentRow
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import FINISHED, LAST_STAGE, STAGES, DeploymentStatus, Stage, may_follow
from shared.errors import Cancelled, LeaseLost
from shared.logs.base import LogStore, Notifier
from shared.plans import limits_of, slots_within
from shared.releases.repository import LockedProject, ReleaseRepository
from shared.releases.site_repository import SiteRepository
from shared.routing.changes import activation
from shared.settings import LimitSettings, SiteSettings
from workers.pipeline.outputs import Output
from workers.pipeline.stage import StageResult
from workers.pipeline.steps import ChangeRoutes, LoggedSteps, recordable


class Beginning(enum.Enum):
    RUN = "run"
    WAIT = "wait"  # the limit of the plan or installation is reached: `started` are the deployments that count
    SKIP = "skip"  # its output is recorded: continue with the next stage
    CANCEL = "cancel"  # the client asked for the end
    OVER = "over"  # finished or deleted: nothing to do


@dataclass(frozen=True, slots=True)
class BegunStage:
    """`row` is the deployment's, None when it was deleted; `outputs` maps finished stages to what they recorded.

    `started` are the tenant's deployments that hold the places of its plan, for WAIT only.
    """

    beginning: Beginning
    row: DeploymentRow | None
    outputs: Mapping[str, Mapping[str, object]]
    attempt: int
    started: Sequence[str] = ()


class LifecycleService:
    def __init__(
        self,
        *,
        database: Database,
        deployments: DeploymentRepository,
        stage_runs: StageRunRepository,
        releases: ReleaseRepository,
        sites: SiteRepository,
        log_store: LogStore,
        notifier: Notifier,
        clock: Clock,
        limits: LimitSettings,
        site_settings: SiteSettings,
    ) -> None:
        self._deployments = deployments
        self._stage_runs = stage_runs
        self._releases = releases
        self._sites = sites
        self._steps = LoggedSteps(database, log_store, notifier)
        self._clock = clock
        self._limits = limits
        self._site_settings = site_settings

    def begin_stage(self, tenant_id: str, deployment_id: str, stage: Stage, *, fence: int, worker: str) -> BegunStage:
        """Takes the deployment into the stage's state and records the run. Raises LeaseLost.

        The queue hands out no more than the plan allows, but it may have lost what it knew; so those that start are
        counted here, where nothing is lost.
        """

        def step(connection: Connection) -> tuple[BegunStage, list[LogEntry]]:
            # Before the deployment, as where deployments are created. What isn't queued never is again.
            is_starting = self._deployments.is_queued(connection, deployment_id)
            plan = self._deployments.lock_tenant(connection, tenant_id) if is_starting else None
            row = self._deployments.find_locked(connection, tenant_id, deployment_id)
            if row is None or row.status in FINISHED:
                return BegunStage(Beginning.OVER, row, {}, 0), []
            if row.fence > fence:
                raise LeaseLost
            if row.status != DeploymentStatus.QUEUED:
                # Whatever comes of it: a former worker that is still at it, or is killed for us, changes nothing more.
                self._deployments.advance(connection, deployment_id, row.status, fence)
            outputs = self._stage_runs.outputs(connection, deployment_id)
            if row.cancel_requested_at is not None:
                return BegunStage(Beginning.CANCEL, row, outputs, 0), []
            if stage.value in outputs:
                return BegunStage(Beginning.SKIP, row, outputs, 0), []
            if plan is not None and row.status == DeploymentStatus.QUEUED:
                started = self._deployments.started(connection, tenant_id)
                limit = limits_of(plan).concurrent_builds
                if len(started) >= slots_within(limit, self._limits.builds_at_once):
                    return BegunStage(Beginning.WAIT, row, outputs, 0, started), []
            entered, attempt = self._enter(connection, row, stage, fence, worker)
            entry = self._status(entered, stage=stage, attempt=attempt)
            return BegunStage(Beginning.RUN, row, outputs, attempt), [entry]

        return self._steps.run(deployment_id, fence, step)

    def _enter(
        self, connection: Connection, row: DeploymentRow, stage: Stage, fence: int, worker: str
    ) -> tuple[DeploymentStatus, int]:
        """Starts the stage's run. Returns the deployment's status and the number of the attempt. Raises LeaseLost."""
        # A stage that runs again because its output was lost doesn't move the deployment back.
        status = row.status
        if may_follow(status, STAGES[stage].status):
            status = STAGES[stage].status
        if not self._deployments.advance(connection, row.id, status, fence):
            raise LeaseLost
        return status, self._stage_runs.start(connection, row.id, stage.value, fence, worker)

    def succeed_stage(
        self,
        deployment_id: str,
        stage: Stage,
        result: StageResult[Output],
        *,
        fence: int,
    ) -> None:
        """Records the stage's result. Raises LeaseLost."""

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            is_recorded = self._record(connection, deployment_id, stage, result, fence)
            # A repeat after a lost reply finds the output recorded, by this same fence.
            if not is_recorded and stage.value not in self._stage_runs.outputs(connection, deployment_id):
                raise LeaseLost
            self._deployments.set_facts(connection, deployment_id, fence, result.facts)
            self._deployments.set_warnings(connection, deployment_id, fence, stage, result.warnings)
            return None, []

        self._steps.run(deployment_id, fence, step)

    def retry_stage(self, deployment_id: str, *, fence: int, message: str) -> None:
        """Closes the run of a stage that will be tried again."""
        message = recordable(message)

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            self._stage_runs.end(
                connection, deployment_id, status="retrying", fence=fence, error=("PLATFORM_ERROR", message)
            )
            return None, []

        self._steps.run(deployment_id, fence, step)

    def rerun_from(self, deployment_id: str, stage: Stage, *, fence: int, message: str) -> None:
        """Forgets what this stage and the later ones recorded, as it is lost: they run again. Raises LeaseLost."""
        message = recordable(message)
        stages = list(Stage)
        forgotten = [later.value for later in stages[stages.index(stage) :]]

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            if not self._deployments.is_held(connection, deployment_id, fence):
                raise LeaseLost
            self._stage_runs.forget(connection, deployment_id, forgotten, message=message)
            self._stage_runs.end(
                connection, deployment_id, status="retrying", fence=fence, error=("PLATFORM_ERROR", message)
            )
            return None, []

        self._steps.run(deployment_id, fence, step)

    def fail(self, deployment_id: str, stage: Stage, *, fence: int, code: str, message: str) -> None:
        message = recordable(message)

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            error = (code, stage.value, message)
            if not self._deployments.finish(
                connection, deployment_id, DeploymentStatus.FAILED, fence=fence, error=error
            ):
                return None, []
            self._stage_runs.end(connection, deployment_id, status="failed", fence=fence, error=(code, message))
            end: dict[str, str | None] = {"code": code, "stage": stage.value, "message": message}
            return None, self._end(DeploymentStatus.FAILED, error=end)

        self._steps.run(deployment_id, fence, step)

    def cancel(self, deployment_id: str, *, fence: int) -> None:
        """Confirms a cancellation: the caller has made sure that nothing of the deployment runs any more."""

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            if not self._deployments.finish(connection, deployment_id, DeploymentStatus.CANCELLED, fence=fence):
                return None, []
            self._stage_runs.end(connection, deployment_id, status="cancelled", fence=fence)
            return None, self._end(DeploymentStatus.CANCELLED)

        self._steps.run(deployment_id, fence, step)

    def ignore(self, deployment_id: str, *, fence: int, reason: str) -> None:
        """Ends a deployment that has nothing new to build."""

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            if not self._deployments.finish(
                connection, deployment_id, DeploymentStatus.CANCELLED, fence=fence, ignored_reason=reason
            ):
                return None, []
            self._stage_runs.end(connection, deployment_id, status="cancelled", fence=fence)
            return None, self._end(DeploymentStatus.CANCELLED, ignored=reason)

        self._steps.run(deployment_id, fence, step)

    def publish(
        self, row: DeploymentRow, facts: Mapping[str, str], *, fence: int, change_routes: ChangeRoutes
    ) -> int | None:
        """The first step of the last stage's end: unless a newer release is live, the site's route leads here.

        Returns the number of the route change, to be confirmed before `finish_ready`; None if nothing changes. From now
        on the deployment can only become ready. A repeat changes the route once more, which does no harm. Raises
        LeaseLost, Cancelled.
        """

        def step(connection: Connection) -> tuple[int | None, list[LogEntry]]:
            project = self._releases.lock_project(connection, row.project_id)
            current = self._deployments.find_locked(connection, row.tenant_id, row.id)
            if project is None or current is None or current.fence > fence:
                raise LeaseLost
            if current.status in FINISHED:
                return None, []
            # A cancellation that was accepted before this moment holds: the site never appears.
            if current.cancel_requested_at is not None:
                raise Cancelled
            self._deployments.set_facts(connection, row.id, fence, facts)
            self._sites.set_published(connection, row.id, fence)
            if not (row.is_preview or self._take_production(connection, row, project)):
                return None, []
            return change_routes(connection, activation(row.host, row.id)), []

        return self._steps.run(row.id, fence, step)

    def finish_ready(self, row: DeploymentRow, result: StageResult[Output], *, fence: int) -> None:
        """The second step: recorded and ready. Raises LeaseLost."""

        def step(connection: Connection) -> tuple[None, list[LogEntry]]:
            self._record(connection, row.id, LAST_STAGE, result, fence)
            if not self._deployments.finish(connection, row.id, DeploymentStatus.READY, fence=fence):
                raise LeaseLost
            return None, self._end(DeploymentStatus.READY, url=self._site_settings.url(row.host))

        self._steps.run(row.id, fence, step)

    def _take_production(self, connection: Connection, row: DeploymentRow, project: LockedProject) -> bool:
        """Moves production's pointer, unless a newer release is live or a rollback holds it against webhooks.

        Returns whether it points at the deployment now.
        """
        if project.active_release_sequence == row.release_sequence:
            return True
        if project.is_pinned and row.trigger == "webhook":
            return False
        return self._releases.move_pointer(connection, row.project_id, row.id, row.release_sequence, is_pinned=False)

    def _record(
        self, connection: Connection, deployment_id: str, stage: Stage, result: StageResult[Output], fence: int
    ) -> bool:
        """Records the output of the stage's run. Returns False if no run of this fence is open."""
        return self._stage_runs.succeed(
            connection,
            deployment_id,
            stage.value,
            fence,
            output=msgspec.to_builtins(result.output),
            is_cache_hit=result.is_cache_hit,
        )

    def _status(self, status: DeploymentStatus, *, stage: Stage | None = None, attempt: int | None = None) -> LogStatus:
        return LogStatus(timestamp=self._now_ms(), status=status.value, stage=stage, attempt=attempt)

    def _end(
        self,
        status: DeploymentStatus,
        *,
        url: str | None = None,
        error: dict[str, str | None] | None = None,
        ignored: str | None = None,
    ) -> list[LogEntry]:
        end = LogEnd(timestamp=self._now_ms(), status=status.value, url=url, error=error, ignored=ignored)
        return [self._status(status), end]

    def _now_ms(self) -> int:
        return unix_milliseconds(self._clock.now())
