"""One run of one stage, as the subject that its outcome is settled for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never, Protocol

from schemas.messages import Job
from shared import metrics
from shared.clock import Clock
from shared.deployments.jobs import stage_job_of
from shared.deployments.rows import DeploymentRow
from shared.deployments.state import Stage, next_stage
from shared.errors import FailureCode, LeaseLost
from shared.logs.masking.redaction import Redactor
from shared.queue.base import Lease
from shared.signals import Signal
from shared.tracing import span
from workers.pipeline.deployment_view import retry_delay_seconds, target_of
from workers.pipeline.lifecycle import LifecycleService
from workers.pipeline.outcome import (
    Cancelled,
    Failed,
    HandedBack,
    Ignored,
    Outcome,
    Rerun,
    Retry,
    Succeeded,
)
from workers.pipeline.outputs import Output
from workers.pipeline.stage import StageInputs, StageLog, StageResult
from workers.pipeline.stop_signal import StopSignal
from workers.pipeline.table import INSTALL, TABLE
from workers.publishers.base import Publisher


class StageLogHandle(StageLog, Protocol):
    """A stage's log as the runner holds it."""

    @property
    def lost(self) -> Signal: ...

    def close(self) -> None:
        """Blocks until everything written is stored. Raises PlatformError if it can't be. May be repeated."""
        ...


class StageRun:
    """The runner fills in what it learns: the deployment's row, its inputs, its log and why it stops."""

    row: DeploymentRow | None = None
    inputs: StageInputs = StageInputs({})
    log: StageLogHandle | None = None
    redactor: Redactor | None = None
    stop: StopSignal | None = None

    def __init__(
        self,
        stage: Stage,
        lease: Lease,
        *,
        lifecycle: LifecycleService,
        publisher: Publisher,
        executor_name: str,
        clock: Clock,
    ) -> None:
        self.deployment_id = str(lease.job.payload["deployment_id"])
        self._stage = stage
        self._traits = TABLE[stage]
        self._lease = lease
        self._lifecycle = lifecycle
        self._publisher = publisher
        self._executor_name = executor_name
        self._clock = clock
        self._started = clock.monotonic()

    @property
    def is_lost(self) -> bool:
        return self._lease.lost.is_set() or (self.log is not None and self.log.lost.is_set())

    def announce(self, outcome: Outcome[StageResult[Output]]) -> None:
        """The log comes first: a recorded stage has all its lines."""
        if self.log is None:
            return
        line = self._line(outcome)
        if line:
            self.log.system(line)
        self.log.close()
        if self.is_lost:
            raise LeaseLost

    def give_up(self, retry: Retry) -> Outcome[Never]:
        message = "The platform failed and further attempts are used up; deploy again, or ask your operator."
        return Failed(FailureCode.PLATFORM_ERROR, message, is_given_up=True)

    def record(self, outcome: Outcome[StageResult[Output]]) -> Sequence[Job]:
        fence = self._lease.token
        match outcome:
            case Succeeded(result=result):
                if result is not None:
                    self._record_result(result)
                following = next_stage(self._stage)
                return [] if following is None else [stage_job_of(self._known_row, following)]
            case Failed(code=code, message=message):
                self._lifecycle.fail(self.deployment_id, self._stage, fence=fence, code=code, message=message)
            case Ignored(reason=reason):
                self._lifecycle.ignore(self.deployment_id, fence=fence, reason=reason)
            case Rerun(stage=stage, message=message):
                self._lifecycle.rerun_from(self.deployment_id, stage, fence=fence, message=message)
                return [stage_job_of(self._known_row, stage)]
            case Retry(message=message):
                self._lifecycle.retry_stage(self.deployment_id, fence=fence, message=message)
            case HandedBack():
                self._lifecycle.retry_stage(self.deployment_id, fence=fence, message="The worker stopped.")
            case Cancelled():
                self._lifecycle.cancel(self.deployment_id, fence=fence)
            case _:
                pass
        return []

    def count(self, outcome: Outcome[StageResult[Output]]) -> None:
        # First: the other figures depend on what earlier stages have recorded, which may be malformed.
        metrics.observe_stage(self._stage.value, outcome.name, self._clock.monotonic() - self._started)
        match outcome:
            case Succeeded(result=StageResult() as result):
                if self._traits.is_cached:
                    metrics.count_cache(self._stage.value, is_hit=result.is_cache_hit)
                self._count_build("ready")
                if next_stage(self._stage) is None:
                    self._count_end("ready")
            case Failed(code=code):
                self._count_end("failed", code)
                self._count_build(code)
            case Ignored():
                self._count_end("ignored")
            case Cancelled():
                self._count_end("cancelled")
            case _:
                pass

    @property
    def _known_row(self) -> DeploymentRow:
        assert self.row is not None, "only a stage whose deployment was found succeeds, fails or runs again"
        return self.row

    @property
    def _target(self) -> str:
        return target_of(self._known_row)

    def _line(self, outcome: Outcome[StageResult[Output]]) -> str | None:
        match outcome:
            case Failed(message=message):
                return message
            case Ignored(reason=reason):
                return f"{reason} This deployment is ignored."
            case Rerun(stage=stage):
                return f"What the {stage.value} stage stored is no longer there; that stage runs again."
            case HandedBack():
                return "This worker is stopping; the stage continues on another one."
            case Cancelled():
                return "Cancelled."
            case Retry() if self._lease.is_last_attempt:
                return "A part of the platform failed again; giving up."
            case Retry(kind=kind):
                delay = retry_delay_seconds(self._lease.attempt)
                return f"A part of the platform failed ({kind}); trying again in {delay:.0f} s."
            case _:
                return None

    def _record_result(self, result: StageResult[Output]) -> None:
        row, fence = self._known_row, self._lease.token
        if next_stage(self._stage) is not None:
            self._lifecycle.succeed_stage(row.id, self._stage, result, fence=fence)
            return
        with span("release activate"):
            number = self._lifecycle.publish(
                row, result.facts, fence=fence, change_routes=self._publisher.change_routes
            )
        if number is not None:
            with span("release confirm"):
                self._publisher.confirm(number)
        self._lifecycle.finish_ready(row, result, fence=fence)

    def _count_build(self, outcome: str) -> None:
        if self._traits.is_counted_as_build and self.row is not None:
            installed = self.inputs.find(INSTALL)
            framework = "unknown" if installed is None else installed.detection.framework
            metrics.count_build(executor=self._executor_name, framework=framework, outcome=outcome, target=self._target)

    def _count_end(self, outcome: str, code: str = "none") -> None:
        if self.row is None:
            # The database was away each time.
            metrics.count_deployment(outcome, "any", code)
            return
        metrics.count_deployment(outcome, self._target, code)
        elapsed = self._clock.now() - self.row.created_at
        metrics.observe_deployment(self._target, outcome, elapsed.total_seconds())
