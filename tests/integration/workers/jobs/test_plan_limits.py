"""A plan's limit holds whatever the queue has lost: as PostgreSQL counts, and as stages really run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.deployments import CreateDeploymentRequest
from shared.clock import SystemClock
from shared.deployments.jobs import stage_job_id
from shared.deployments.state import Stage
from shared.errors import Cancelled, Conflict, FailureCode, StageFailure
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.plans import Plan, PlanLimits, limits_of
from shared.queue.dramatiq.lease import RunningLease
from shared.queue.encoding import encode_finish
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import AcquiredJob, BeatAnswer, Disposition
from shared.signals import Signal
from tests.support.deployment_world import create, settings, world
from workers.filesystem.trees import StageDirectories
from workers.jobs.stage_runner import StageRunner
from workers.pipeline.lifecycle import Beginning
from workers.pipeline.stage import StageContext, StageResult
from workers.pipeline.table import CLONE

__all__ = ["settings", "world"]
pytestmark = pytest.mark.integration

# The second one ends the deployment, so that two pools are all there is.
STAGES = (Stage.CLONE, Stage.INSTALL)


class Run:
    """One job in the hands of a worker: a stage that runs in a thread until `end`, or that was never begun."""

    def __init__(self, fleet: Fleet, acquired: AcquiredJob, stage: Stage) -> None:
        self.acquired = acquired
        self.lease = RunningLease(acquired, stopping=Signal())
        self.may_end = threading.Event()
        self.is_decided = threading.Event()
        self.is_running = False
        self._thread = threading.Thread(target=self._work, args=(fleet.runner(stage, self),), daemon=True)
        self._thread.start()
        assert self.is_decided.wait(120)

    def _work(self, runner: StageRunner) -> None:
        runner.run(self.lease)
        self.is_running = False
        self.is_decided.set()

    def reap(self, name: str) -> None:
        """It runs no commands."""

    def take_over(self, name: str) -> None:
        """It runs no commands."""

    def run(self, context: StageContext) -> StageResult:
        """The stage's function."""
        self.is_running = True
        self.is_decided.set()
        while not self.may_end.is_set() and not context.cancelled.is_set():
            self.may_end.wait(0.01)
        if context.cancelled.is_set():
            raise Cancelled
        if context.inputs.find(CLONE) is not None:
            raise StageFailure(FailureCode.COMMAND_FAILED, "The command ended with exit code 1.")
        return StageResult({"source": "a" * 64})

    def join(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive()


class Fleet:
    """Workers that a test drives by hand: which of them does what, and when Redis forgets everything."""

    def __init__(self, world: Any, directory: Path) -> None:
        self.world = world
        self.runs: list[Run] = []
        self.started: set[str] = set()
        self._directories = StageDirectories(directory)
        self._requests = 0

    def runner(self, stage: Stage, run: Run) -> StageRunner:
        world = self.world

        def open_log(deployment_id: str, stage: Stage, fence: int, redactor: Redactor) -> LogWriter:
            return LogWriter(
                world.log_store, world.database, world.notifier, deployment_id, stage.value, fence, redactor
            )

        def hold_slot(tenant_id: str, slot: str, limits: PlanLimits) -> None:
            world.queue.hold_slot(tenant_id, slot, limit=limits.concurrent_builds, weight=limits.weight)

        return StageRunner(
            stage=stage,
            function=run,
            lifecycle=world.lifecycle,
            open_log=open_log,
            read_variables=lambda _project, _target: [],
            read_credentials=lambda _project: None,
            secrets_of=lambda _row: [],
            hold_slot=hold_slot,
            directories=self._directories,
            limits=world.settings.limits,
            executor_name=world.settings.executor.name,
            clock=SystemClock(),
            worker="w",
            publisher=world.publisher,
        )

    def take(self, stage: Stage) -> Run | None:
        """A worker of the pool takes its next job, if there is one."""
        self._requests += 1
        request = f"{id(self)}-{self._requests}"
        batch = self.world.queue.acquire(stage.value, 1, worker="w", request_id=request)
        if not batch.jobs:
            return None
        run = Run(self, batch.jobs[0], stage)
        if run.is_running:
            self.runs.append(run)
        else:
            self._settle(run)
        return run

    def end(self, run: Run) -> None:
        run.may_end.set()
        self._settle(run)

    def beat(self) -> None:
        """What the workers' heartbeats find out: lost leases and cancellations."""
        for run in list(self.runs):
            [answer] = self.world.queue.beat([(run.acquired.job.id, run.acquired.token)])
            if answer is BeatAnswer.LOST:
                run.lease.lost.set()
            elif answer is BeatAnswer.CANCELLED:
                run.lease.cancelled.set()
            if answer is not BeatAnswer.RENEWED:
                self._settle(run)

    def forget(self) -> None:
        self.world.redis.flushall()

    def set_plan(self, plan: Plan) -> None:
        with self.world.database.transaction() as connection:
            connection.execute("UPDATE tenants SET plan = %s WHERE id = %s", (plan.value, self.world.tenant_id))
        limits = limits_of(plan)
        self.world.queue.set_tenant(self.world.tenant_id, limit=limits.concurrent_builds, weight=limits.weight)

    def cancel(self, index: int) -> None:
        live = self.live()
        if live:
            try:
                self.world.service.cancel(self.world.tenant_id, live[index % len(live)])
            except Conflict:
                pytest.fail("it was live")

    def live(self) -> list[str]:
        return [row.id for row in self.world.deployments.live()]

    def check(self) -> None:
        """Whatever has just started was within the plan; what runs has started."""
        with self.world.database.transaction() as connection:
            started = set(self.world.deployments.started(connection, self.world.tenant_id))
            plan = self.world.deployments.lock_tenant(connection, self.world.tenant_id)
        if started - self.started:
            assert len(started) <= limits_of(plan).concurrent_builds
        self.started = started
        # A run whose lease is lost ends with its next heartbeat; until then the queue doesn't hold its job.
        held = [run.acquired.job for run in self.runs if run.is_running and not run.lease.lost.is_set()]
        assert {job.slot for job in held if self.world.queue.find(job.id) == "running"} <= started

    def finish_everything(self) -> None:
        """Nothing is stuck: with working machines everything ends, within the plan, by no failure of the platform."""
        for _ in range(20 * (len(self.live()) + 1)):
            if not self.live():
                return
            self.beat()
            self.world.reconciler.run_once()
            self.check()
            for stage in STAGES:
                while self.take(stage) is not None:
                    self.check()
            for run in list(self.runs):
                self.end(run)
                self.check()
        pytest.fail(f"{self.live()} never end")

    def close(self) -> None:
        for run in self.runs:
            run.may_end.set()
            run.join()

    def _settle(self, run: Run) -> None:
        run.join()
        if run in self.runs:
            self.runs.remove(run)
        settlement = run.lease.settlement
        if settlement is not None:
            finish = encode_finish(
                run.acquired.job.id,
                run.acquired.token,
                settlement.disposition,
                delay_seconds=settlement.delay_seconds,
                reason=settlement.reason or "rejected",
                next_jobs=list(settlement.next_jobs),
            )
            self.world.queue.finish_many([finish])


@pytest.fixture
def fleet(world: Any, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(world, tmp_path / "work")
    yield fleet
    fleet.close()


def statuses(world: Any, ids: list[str]) -> list[str]:
    return [world.service.get(world.tenant_id, deployment_id).status for deployment_id in ids]


def test_a_new_job_that_meets_an_empty_queue_goes_back_to_its_place(world: Any, fleet: Fleet):
    running, waiting = create(world), create(world)
    run = fleet.take(Stage.CLONE)
    assert run is not None
    assert run.is_running
    fleet.forget()
    new = create(world)
    refused = fleet.take(Stage.CLONE)
    assert refused is not None
    assert refused.acquired.job.slot == new
    assert statuses(world, [running, waiting, new]) == ["cloning", "queued", "queued"]
    # The queue knows now who has the place: nobody asks again until it is free, and no attempt is lost.
    assert world.queue.running_set(world.tenant_id) == {running}
    assert fleet.take(Stage.CLONE) is None
    assert world.queue.explain(stage_job_id(new, Stage.CLONE)).reason in ("plan_limit", "no_workers")
    world.reconciler.run_once()
    # The one that waited before goes first, though it was put back after.
    order = [running, waiting, new]
    assert [world.queue.explain(stage_job_id(each, Stage.CLONE)).position for each in order] == [1, 2, 3]
    fleet.finish_everything()
    assert statuses(world, [running, waiting, new]) == ["failed"] * 3
    assert [world.service.get(world.tenant_id, each).error.code for each in (running, waiting, new)] == [
        "COMMAND_FAILED"
    ] * 3
    assert [len(world.service.get(world.tenant_id, each).stages) for each in (waiting, new)] == [2, 2]


def test_the_reconciler_holds_all_slots_before_it_enqueues(world: Any, fleet: Fleet):
    """The oldest waits (it was made before the plan's place was taken), so it is the first to be put back."""
    oldest, running = create(world), create(world)
    world.lifecycle.begin_stage(world.tenant_id, running, Stage.CLONE, fence=1, worker="w")
    fleet.forget()
    handed_out: list[str] = []
    enqueue = world.queue.enqueue

    class Greedy:
        """A worker that is quicker than the reconciler: it asks after every job that is put back."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.queue, name)

        def enqueue(self, job: Any, *, delay_seconds: float = 0.0) -> bool:
            is_taken = enqueue(job, delay_seconds=delay_seconds)
            batch = world.queue.acquire("clone", 5, worker="w", request_id=f"greedy-{job.id}")
            handed_out.extend(str(acquired.job.slot) for acquired in batch.jobs)
            return is_taken

    world.make_reconciler(Greedy()).run_once()
    assert handed_out == [running]
    assert world.queue.running_set(world.tenant_id) == {running}
    assert world.queue.find(stage_job_id(oldest, Stage.CLONE)) == "ready"


def test_a_cancelled_deployment_gives_its_slot_away_when_its_row_says_so(world: Any):
    """Between two stages: the job waits, the slot is taken."""
    deployment_id = create(world)
    [acquired] = world.queue.acquire("clone", 1, worker="w", request_id="r").jobs
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=acquired.token, worker="w")
    world.lifecycle.succeed_stage(deployment_id, Stage.CLONE, fence=acquired.token, result=StageResult({"source": "x"}))
    world.queue.finish(acquired.job.id, acquired.token, Disposition.RELEASE)
    other = create(world)
    seen: list[tuple[str, set[str]]] = []
    finish = world.deployments.finish

    class Watching:
        """Looks at the queue in the moment in which the row is about to be ended."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.deployments, name)

        def finish(self, *arguments: Any, **options: Any) -> bool:
            batch = world.queue.acquire("clone", 5, worker="w2", request_id="r2")
            seen.append((",".join(job.job.id for job in batch.jobs), world.queue.running_set(world.tenant_id)))
            return finish(*arguments, **options)

    world.service_with(deployments=Watching()).cancel(world.tenant_id, deployment_id)
    assert seen == [("", {deployment_id})]
    assert world.queue.running_set(world.tenant_id) == set()
    assert [job.job.slot for job in world.queue.acquire("clone", 5, worker="w2", request_id="r3").jobs] == [other]


def test_a_slot_whose_cancellation_was_cut_off_is_freed_by_the_reconciler(world: Any):
    first, second = create(world), create(world)
    [acquired] = world.queue.acquire("clone", 1, worker="w", request_id="r").jobs
    world.queue.finish(acquired.job.id, acquired.token, Disposition.RELEASE)
    with world.database.transaction() as connection:
        world.deployments.request_cancel(connection, world.tenant_id, first)
    world.queue.cancel(acquired.job.id, keeps_slot=True)  # the API dies here
    assert world.queue.running_set(world.tenant_id) == {first}
    world.reconciler.run_once()
    assert statuses(world, [first]) == ["cancelled"]
    assert [job.job.slot for job in world.queue.acquire("clone", 5, worker="w", request_id="r2").jobs] == [second]


@pytest.mark.parametrize(
    ("plan", "builds_at_once", "allowed"), [(Plan.PRO, None, 3), (Plan.PRO, 2, 2), (Plan.PRO, 5, 3), (Plan.FREE, 2, 1)]
)
def test_an_installations_own_bound_outlives_the_queue(world: Any, plan: Plan, builds_at_once: int, allowed: int):
    """What a queue that knows nothing any more would hand out is refused where PostgreSQL counts; a queue that knows
    hands out as many."""
    with world.database.transaction() as connection:
        connection.execute("UPDATE tenants SET plan = %s WHERE id = %s", (plan.value, world.tenant_id))
    queue = RedisJobQueue(world.redis, maximum_tenant_slots=builds_at_once)
    service = world.service_with(queue=queue)
    request = CreateDeploymentRequest(project_id=world.project_id)
    ids = [service.create(world.tenant_id, request, created_by=None).id for _ in range(4)]
    assert len(queue.acquire("clone", 4, worker="w", request_id="r").jobs) == allowed
    lifecycle = world.lifecycle_with(limits=replace(world.settings.limits, builds_at_once=builds_at_once))
    begun = [lifecycle.begin_stage(world.tenant_id, each, Stage.CLONE, fence=9, worker="w").beginning for each in ids]
    assert begun == [Beginning.RUN] * allowed + [Beginning.WAIT] * (4 - allowed)


indices = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("create")),
    st.tuples(st.just("take"), st.sampled_from(STAGES)),
    st.tuples(st.just("take"), st.sampled_from(STAGES)),
    st.tuples(st.just("end"), indices),
    st.tuples(st.just("forget")),
    st.tuples(st.just("reconcile")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("plan"), st.sampled_from([Plan.FREE, Plan.PRO])),
    st.tuples(st.just("cancel"), indices),
)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(script=st.lists(steps, min_size=5, max_size=25))
@example(script=[("take", Stage.CLONE), ("forget",), ("create",), ("take", Stage.CLONE)])
@example(script=[("take", Stage.CLONE), ("end", 0), ("forget",), ("create",), ("take", Stage.CLONE), ("reconcile",)])
@example(
    script=[
        ("plan", Plan.PRO),
        *[("take", Stage.CLONE)] * 3,
        ("plan", Plan.FREE),
        ("forget",),
        ("create",),
        ("take", Stage.CLONE),
        ("beat",),
        ("reconcile",),
        *[("take", Stage.CLONE)] * 4,
    ]
)
@example(
    script=[("take", Stage.CLONE), ("cancel", 0), ("forget",), ("reconcile",), ("take", Stage.CLONE)],
)
def test_no_order_of_losses_and_starts_exceeds_a_plan(world: Any, tmp_path: Path, script: list[tuple[Any, ...]]):
    with world.database.transaction() as connection:
        connection.execute("DELETE FROM deployments")
    world.redis.flushall()
    fleet = Fleet(world, tmp_path / "work")
    acts: dict[str, Callable[..., object]] = {
        "create": lambda: create(world),
        "take": fleet.take,
        "end": lambda index: fleet.runs and fleet.end(fleet.runs[index % len(fleet.runs)]),
        "forget": fleet.forget,
        "reconcile": world.reconciler.run_once,
        "beat": fleet.beat,
        "plan": fleet.set_plan,
        "cancel": fleet.cancel,
    }
    try:
        fleet.set_plan(Plan.FREE)
        for _ in range(3):
            create(world)
        for name, *arguments in script:
            acts[name](*arguments)
            fleet.check()
        fleet.finish_everything()
        query = "SELECT DISTINCT error_code FROM deployments WHERE status = 'failed'"
        assert world.database.fetch_values(str, query) in ([], ["COMMAND_FAILED"])
    finally:
        fleet.close()
