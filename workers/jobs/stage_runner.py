"""Runs one stage of one deployment under a lease: fenced, recorded, masked, and ended in exactly one way.

    begin (state, stage run) → run the stage → record its output → acknowledge and enqueue the next, in one step

Whatever dies between two of these steps, the job is delivered again and goes on from what is recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from schemas.messages import Job
from shared import metrics
from shared.clock import Clock
from shared.deployments.jobs import stage_job
from shared.deployments.repository import DeploymentRow
from shared.deployments.state import Stage, next_stage
from shared.errors import Cancelled, FailureCode, LeaseLost, PlatformError, StageFailure, Unavailable
from shared.logs.masking.redaction import Redactor
from shared.plans import PlanLimits, limits_of
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.variable_service import ProjectVariable
from shared.queue.base import Lease
from shared.settings import BuildSettings
from workers.filesystem.trees import StageDirectories
from workers.pipeline.deployment_view import (
    RETRY_MAXIMUM_SECONDS,
    deployment_view,
    effective_limits,
    retry_delay_seconds,
    target_of,
    variables_for,
)
from workers.pipeline.lifecycle import Beginning, BegunStage, LifecycleService
from workers.pipeline.stage import StageContext, StageFunction, StageLog, StageResult, origin_of
from workers.pipeline.stop_signal import interruption
from workers.snapshots.input_missing import InputMissing
from workers.stages.clone.ignored import Ignored

_log = structlog.get_logger(__name__)

# A job that the plan allows no place, where the queue couldn't be told why.
_WAIT_SECONDS = 1.0
# The stages whose output is kept under a key.
_CACHED = frozenset({Stage.CLONE, Stage.INSTALL, Stage.BUILD, Stage.UPLOAD})


class StageLogHandle(StageLog, Protocol):
    """A stage's log as the runner holds it."""

    @property
    def lost(self) -> threading.Event: ...

    def close(self) -> None:
        """Blocks until everything written is stored. Raises PlatformError when it can't be. May be repeated."""
        ...


# (deployment id, stage, fence, what masks the secrets) → log
OpenLog = Callable[[str, Stage, int, Redactor], StageLogHandle]
# (project id, target) → variables
ReadVariables = Callable[[str, str], Sequence[ProjectVariable]]
# project id → what its repository is cloned with
ReadCredentials = Callable[[str], RepositoryCredentials | None]
# Kills what an earlier, dead run of this name left on this host.
Reap = Callable[[str], None]
# (tenant id, deployment id, limits): puts a started deployment's slot into the queue's running set. Raises Unavailable.
HoldSlot = Callable[[str, str, PlanLimits], None]
# Ends a pipeline: records the last stage's result together with what it means for the deployment. (row, fence, result)
Finish = Callable[[DeploymentRow, int, StageResult], None]


class StageRunner:
    def __init__(
        self,
        *,
        stage: Stage,
        function: StageFunction,
        lifecycle: LifecycleService,
        open_log: OpenLog,
        read_variables: ReadVariables,
        read_credentials: ReadCredentials,
        secrets_of: Callable[[DeploymentRow], list[str]],
        reap: Reap,
        hold_slot: HoldSlot,
        directories: StageDirectories,
        build_settings: BuildSettings,
        clock: Clock,
        worker: str,
        finish: Finish | None = None,
    ) -> None:
        self._stage = stage
        self._function = function
        self._lifecycle = lifecycle
        self._open_log = open_log
        self._read_variables = read_variables
        self._read_credentials = read_credentials
        self._secrets_of = secrets_of
        self._reap = reap
        self._hold_slot = hold_slot
        self._directories = directories
        self._build_settings = build_settings
        self._clock = clock
        self._worker = worker
        self._finish = finish

    def run(self, lease: Lease) -> None:
        """Never raises: the lease's outcome says what becomes of the job."""
        deployment_id = str(lease.job.payload["deployment_id"])
        log = _log.bind(deployment_id=deployment_id, stage=self._stage.value, fence=lease.token)
        started = self._clock.monotonic()
        outcome = "lost"
        try:
            outcome = self._run(lease, deployment_id)
        except LeaseLost:
            log.warning("stage.lease_lost")
        except (PlatformError, Unavailable) as error:
            outcome = self._handle_platform_error(lease, deployment_id, error)
        except Exception as error:
            log.exception("stage.crashed")
            outcome = self._handle_platform_error(lease, deployment_id, error)
        metrics.observe_stage(self._stage.value, outcome, self._clock.monotonic() - started)
        log.info("stage.ended", outcome=outcome, attempt=lease.attempt)

    def _run(self, lease: Lease, deployment_id: str) -> str:
        tenant_id = lease.job.tenant_id
        begun = self._lifecycle.begin_stage(
            tenant_id, deployment_id, self._stage, fence=lease.token, worker=self._worker
        )
        if begun.beginning is Beginning.WAIT and begun.row is not None:
            return self._wait_for_slot(lease, begun, begun.row)
        # A worker of this host may have died in this stage; nothing of its run may go on beside ours. Before its first
        # run there is nothing to look for in all of the host's processes.
        if begun.beginning is not Beginning.RUN or begun.attempt > 1:
            self._reap(f"{deployment_id}-{self._stage.value}")
        if begun.beginning is not Beginning.RUN:
            self._directories.discard(deployment_id, self._stage.value, lease.token)
        if begun.beginning is Beginning.OVER or begun.row is None:
            lease.done()
            return "over"
        if begun.beginning is Beginning.CANCEL:
            self._lifecycle.cancel(deployment_id, fence=lease.token)
            lease.done()
            return "cancelled"
        if begun.beginning is Beginning.RUN:
            if self._stage is Stage.CLONE and begun.attempt == 1:
                waited = self._clock.now() - begun.row.created_at
                metrics.observe_wait(self._stage.value, waited.total_seconds())
            outcome = self._run_function(lease, begun, begun.row)
            if outcome != "succeeded":
                return outcome
        following = next_stage(self._stage)
        lease.done([] if following is None else [_next_job(lease, begun.row, following)])
        return "succeeded"

    def _wait_for_slot(self, lease: Lease, begun: BegunStage, row: DeploymentRow) -> str:
        """The queue, which lost what it knew, handed out a job beyond the plan: it is told who holds the places."""
        limits = limits_of(row.tenant_plan)
        delay = 0.0
        try:
            for deployment_id in begun.started:
                self._hold_slot(row.tenant_id, deployment_id, limits)
        except Unavailable:
            delay = _WAIT_SECONDS
        lease.wait_for_slot(delay)
        return "waiting"

    def _run_function(self, lease: Lease, begun: BegunStage, row: DeploymentRow) -> str:
        target = "preview" if row.is_preview else "production"
        variables = self._read_variables(row.project_id, target)
        # Read once: what the clone uses is what the log masks.
        credentials = self._read_credentials(row.project_id)
        values = [variable.value for variable in variables]
        redactor = Redactor([*values, *self._secrets_of(row), *(credentials.secrets if credentials else ())])
        log = self._open_log(row.id, self._stage, lease.token, redactor)
        try:
            with (
                interruption(lease, log.lost) as interrupted,
                self._directories.open(row.id, self._stage.value, lease.token) as directory,
            ):
                context = StageContext(
                    deployment=deployment_view(row),
                    limits=effective_limits(limits_of(row.tenant_plan), self._build_settings),
                    directory=directory,
                    inputs={Stage(stage): output for stage, output in begun.outputs.items()},
                    log=log,
                    cancelled=interrupted,
                    attempt=begun.attempt,
                    credentials=credentials if self._stage is Stage.CLONE else None,
                    variables=variables_for(self._stage, variables),
                    fence=lease.token,
                )
                return self._call(lease, context, log, row, redactor)
        finally:
            log.close()

    def _call(
        self, lease: Lease, context: StageContext, log: StageLogHandle, row: DeploymentRow, redactor: Redactor
    ) -> str:
        deployment_id = row.id
        try:
            result = self._function.run(context)
        except StageFailure as failure:
            # It may quote what a server or a command said; it is shown where the log's masks don't reach.
            message = redactor.mask(failure.message)
            log.system(message)
            log.close()
            self._lifecycle.fail(deployment_id, self._stage, fence=lease.token, code=failure.code, message=message)
            metrics.count_deployment("failed", target_of(row), failure.code)
            self._count_build(context, failure.code)
            lease.done()
            return "failed"
        except Ignored as ignored:
            log.system(f"{ignored} This deployment is ignored.")
            log.close()
            self._lifecycle.ignore(deployment_id, fence=lease.token, reason=str(ignored))
            metrics.count_deployment("ignored", target_of(row), "none")
            lease.done()
            return "ignored"
        except Cancelled:
            return self._handle_interruption(lease, deployment_id, log)
        except InputMissing as missing:
            return self._rerun(lease, context, log, row, missing)
        except (PlatformError, Unavailable, OSError) as error:
            if lease.lost.is_set() or log.lost.is_set():
                raise LeaseLost from error
            _announce_retry(lease, log, error)
            log.close()
            raise PlatformError(str(error)) from error
        try:
            self._record(lease, row, result, log)
        except Cancelled:
            return self._confirm_cancel(lease, deployment_id)
        if self._stage in _CACHED:
            metrics.count_cache(self._stage.value, is_hit=result.is_cache_hit)
        self._count_build(context, "ready")
        return "succeeded"

    def _count_build(self, context: StageContext, outcome: str) -> None:
        if self._stage is not Stage.BUILD:
            return
        detection = context.inputs.get(Stage.INSTALL, {}).get("detection", {})
        metrics.count_build(
            executor=self._build_settings.executor,
            framework=detection.get("framework", "unknown"),
            outcome=outcome,
            target="preview" if context.deployment.is_preview else "production",
        )

    def _record(self, lease: Lease, row: DeploymentRow, result: StageResult, log: StageLogHandle) -> None:
        """The log first: a recorded stage has all its lines."""
        log.close()
        if log.lost.is_set():
            raise LeaseLost
        if self._finish is not None:
            self._finish(row, lease.token, result)
            return
        self._lifecycle.succeed_stage(
            row.id,
            self._stage,
            fence=lease.token,
            output=result.output,
            is_cache_hit=result.is_cache_hit,
            facts=result.facts or {},
        )

    def _handle_interruption(self, lease: Lease, deployment_id: str, log: StageLogHandle) -> str:
        """The stage stopped because it was told to: by a lost lease, a cancellation, or this process's end."""
        if lease.lost.is_set() or log.lost.is_set():
            raise LeaseLost
        if lease.cancelled.is_set():
            log.system("Cancelled.")
            log.close()
            return self._confirm_cancel(lease, deployment_id)
        log.system("This worker is stopping; the stage goes on elsewhere.")
        log.close()
        self._lifecycle.retry_stage(deployment_id, fence=lease.token, message="The worker stopped.")
        lease.release()
        return "released"

    def _confirm_cancel(self, lease: Lease, deployment_id: str) -> str:
        self._lifecycle.cancel(deployment_id, fence=lease.token)
        metrics.count_deployment("cancelled", "any", "none")
        lease.done()
        return "cancelled"

    def _rerun(
        self, lease: Lease, context: StageContext, log: StageLogHandle, row: DeploymentRow, missing: InputMissing
    ) -> str:
        """What an earlier stage stored is lost: that stage runs again, as often as this one may be attempted."""
        origin = origin_of(missing.digest, context.inputs)
        if lease.lost.is_set() or log.lost.is_set():
            raise LeaseLost from missing
        if origin is None or context.attempt >= lease.job.max_attempts:
            _announce_retry(lease, log, missing)
            log.close()
            raise missing
        log.system(f"What the {origin.value} stage stored is no longer there; that stage runs again.")
        log.close()
        self._lifecycle.rerun_from(row.id, origin, fence=lease.token, message=str(missing))
        lease.done([_next_job(lease, row, origin)])
        return "rerun"

    def _handle_platform_error(self, lease: Lease, deployment_id: str, error: Exception) -> str:
        if lease.lost.is_set():
            return "lost"
        _log.error("stage.platform_error", deployment_id=deployment_id, stage=self._stage.value, error=str(error))
        try:
            if not lease.is_last_attempt:
                self._lifecycle.retry_stage(deployment_id, fence=lease.token, message=str(error))
                lease.retry(retry_delay_seconds(lease.attempt))
                return "retrying"
            message = "The platform failed and further attempts are used up; deploy again, or ask your operator."
            self._lifecycle.fail(
                deployment_id, self._stage, fence=lease.token, code=FailureCode.PLATFORM_ERROR, message=message
            )
            metrics.count_deployment("failed", "any", FailureCode.PLATFORM_ERROR)
            lease.done()
            return "failed"
        except LeaseLost:
            return "lost"
        except PlatformError:
            # The database is still away: leave the job to the queue's own attempts and the reconciler.
            lease.retry(RETRY_MAXIMUM_SECONDS)
            return "retrying"


def _next_job(lease: Lease, row: DeploymentRow, stage: Stage) -> Job:
    return stage_job(
        deployment_id=row.id,
        tenant_id=row.tenant_id,
        stage=stage,
        priority=row.priority,
        limits=limits_of(row.tenant_plan),
        enqueued_at=row.created_at,
        traceparent=lease.job.traceparent,
    )


def _announce_retry(lease: Lease, log: StageLogHandle, error: Exception) -> None:
    if lease.is_last_attempt:
        log.system("A part of the platform failed again; giving up.")
        return
    delay = retry_delay_seconds(lease.attempt)
    log.system(f"A part of the platform failed ({type(error).__name__}); trying again in {delay:.0f} s.")
