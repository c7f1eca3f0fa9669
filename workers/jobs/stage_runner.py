"""Runs one stage of one deployment under a lease: fenced, recorded, masked, and ended in exactly one way.

    begin (state, stage run) → run the stage → record its output → acknowledge and enqueue the next, in one step

Whatever dies between two of these steps, the job is delivered again and continues from what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import structlog

from shared import errors
from shared.clock import Clock
from shared.deployments.rows import DeploymentRow
from shared.deployments.state import Stage
from shared.errors import PlatformError, StageFailure, Unavailable
from shared.logs.masking.redaction import Redactor
from shared.plans import PlanLimits, limits_of
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.variable_service import ProjectVariable
from shared.queue.base import Lease
from shared.settings import LimitSettings
from workers.filesystem.trees import StageDirectories
from workers.jobs.settle import outcome_of, retry_after, settle
from workers.jobs.stage_run import StageLogHandle, StageRun
from workers.pipeline.deployment_view import deployment_view, effective_limits, target_of, variables_for
from workers.pipeline.lifecycle import Beginning, BegunStage, LifecycleService
from workers.pipeline.outcome import (
    Cancelled,
    Failed,
    HandedBack,
    Ignored,
    Lost,
    Outcome,
    Over,
    Rerun,
    Succeeded,
    Waiting,
)
from workers.pipeline.outputs import Output
from workers.pipeline.stage import NothingToBuild, StageContext, StageFunction, StageInputs, StageResult
from workers.pipeline.stop_signal import StopReason, StopSignal
from workers.pipeline.table import TABLE
from workers.publishers.base import Publisher
from workers.snapshots.input_missing import InputMissing

_log = structlog.get_logger(__name__)

# A job that the plan allows no place, where the queue couldn't be told why.
_WAIT_SECONDS = 1.0

# (deployment id, stage, fence, what masks the secrets) → log
OpenLog = Callable[[str, Stage, int, Redactor], StageLogHandle]
# (project id, target) → variables
ReadVariables = Callable[[str, str], Sequence[ProjectVariable]]
# project id → the credentials that its repository is cloned with
ReadCredentials = Callable[[str], RepositoryCredentials | None]
# (tenant id, deployment id, limits): puts a started deployment's slot into the queue's running set. Raises Unavailable.
HoldSlot = Callable[[str, str, PlanLimits], None]


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
        hold_slot: HoldSlot,
        directories: StageDirectories,
        limits: LimitSettings,
        executor_name: str,
        clock: Clock,
        worker: str,
        publisher: Publisher,
    ) -> None:
        self._stage = stage
        self._function = function
        self._lifecycle = lifecycle
        self._open_log = open_log
        self._read_variables = read_variables
        self._read_credentials = read_credentials
        self._secrets_of = secrets_of
        self._hold_slot = hold_slot
        self._directories = directories
        self._limits = limits
        self._executor_name = executor_name
        self._clock = clock
        self._worker = worker
        self._publisher = publisher

    def run(self, lease: Lease) -> Outcome[StageResult[Output]]:
        """Never raises: the lease's outcome says what becomes of the job."""
        run = StageRun(
            self._stage,
            lease,
            lifecycle=self._lifecycle,
            publisher=self._publisher,
            executor_name=self._executor_name,
            clock=self._clock,
        )
        outcome: Outcome[StageResult[Output]] = retry_after(PlatformError("The stage's outcome isn't known."))
        try:
            with ExitStack() as stack:
                outcome = settle(lease, run, outcome_of(lambda: self._execute(lease, run, stack)))
                _log.info("stage.ended", outcome=outcome.name, attempt=lease.attempt)
        except Exception:  # noqa: BLE001 - it is logged
            # The outcome stands. What couldn't be removed is found by the sweep of this host.
            _log.exception("stage.cleanup_failed")
        return outcome

    def _execute(self, lease: Lease, run: StageRun, stack: ExitStack) -> Outcome[StageResult[Output]]:
        """`stack` is closed after the outcome is settled. Raises LeaseLost, PlatformError, Unavailable, OSError."""
        begun = self._lifecycle.begin_stage(
            lease.job.tenant_id, run.deployment_id, self._stage, fence=lease.token, worker=self._worker
        )
        run.row = row = begun.row
        if row is not None and begun.beginning is Beginning.WAIT:
            return self._wait_for_slot(row, begun.started)
        self._clean_up_after_earlier_runs(run.deployment_id, begun, lease.token)
        if row is None or begun.beginning is Beginning.OVER:
            return Over()
        if begun.beginning is Beginning.CANCEL:
            return Cancelled()
        if begun.beginning is Beginning.SKIP:
            return Succeeded()
        return self._run_function(run, self._open(lease, run, row, begun, stack), lease.job.max_attempts)

    def _clean_up_after_earlier_runs(self, deployment_id: str, begun: BegunStage, fence: int) -> None:
        """A worker of this host may have died in this stage; nothing of its run may stay alive next to this one.

        Before the first run there is nothing to look for in all of the host's processes.
        """
        name = f"{deployment_id}-{self._stage.value}"
        if begun.beginning is not Beginning.RUN:
            self._function.reap(name)
        elif begun.attempt > 1:
            self._function.take_over(name)
        if begun.beginning is not Beginning.RUN:
            self._directories.discard(deployment_id, self._stage.value, fence)

    def _wait_for_slot(self, row: DeploymentRow, started: Sequence[str]) -> Waiting:
        """The queue, which lost its state, handed out a job beyond the plan: it is told who holds the slots."""
        limits = limits_of(row.tenant_plan)
        try:
            for deployment_id in started:
                self._hold_slot(row.tenant_id, deployment_id, limits)
        except Unavailable:
            return Waiting(_WAIT_SECONDS)
        return Waiting()

    def _open(
        self, lease: Lease, run: StageRun, row: DeploymentRow, begun: BegunStage, stack: ExitStack
    ) -> StageContext:
        variables = self._read_variables(row.project_id, target_of(row))
        # Read once: what the clone uses is what the log masks.
        credentials = self._read_credentials(row.project_id)
        values = [variable.value for variable in variables]
        run.redactor = Redactor([*values, *self._secrets_of(row), *(credentials.secrets if credentials else ())])
        run.inputs = StageInputs({Stage(stage): output for stage, output in begun.outputs.items()})
        log = run.log = self._open_log(row.id, self._stage, lease.token, run.redactor)
        stack.callback(_close, log)
        stop = run.stop = stack.enter_context(StopSignal.watching(lease, log.lost))
        directory = stack.enter_context(self._directories.open(row.id, self._stage.value, lease.token))
        return StageContext(
            deployment=deployment_view(row),
            limits=effective_limits(limits_of(row.tenant_plan), self._limits),
            directory=directory,
            inputs=run.inputs,
            log=log,
            cancelled=stop,
            attempt=begun.attempt,
            credentials=credentials if TABLE[self._stage].sees_credentials else None,
            variables=variables_for(self._stage, variables),
            fence=lease.token,
        )

    def _run_function(self, run: StageRun, context: StageContext, max_attempts: int) -> Outcome[StageResult[Output]]:
        try:
            return Succeeded(self._function.run(context))
        except StageFailure as failure:
            # It may quote a server or a command, and it is shown where the log's masks don't reach.
            message = failure.message if run.redactor is None else run.redactor.mask(failure.message)
            return Failed(failure.code, message)
        except NothingToBuild as reason:
            return Ignored(str(reason))
        except errors.Cancelled:
            return _stopped(run.stop)
        except InputMissing as missing:
            # The stage that stored it runs again, as often as this one may be attempted.
            origin = context.inputs.origin_of(missing.digest)
            if run.is_lost:
                return Lost()
            if origin is None or context.attempt >= max_attempts:
                return retry_after(missing)
            return Rerun(origin, str(missing))
        except (PlatformError, Unavailable, OSError) as error:
            return Lost() if run.is_lost else retry_after(error)


def _stopped(stop: StopSignal | None) -> Outcome[StageResult[Output]]:
    """The stage stopped because it was told to."""
    reason = None if stop is None else stop.reason
    if reason is StopReason.LOST:
        return Lost()
    return Cancelled() if reason is StopReason.CANCELLED else HandedBack()


def _close(log: StageLogHandle) -> None:
    """The same error was met before, when the outcome was settled."""
    with suppress(PlatformError):
        log.close()
