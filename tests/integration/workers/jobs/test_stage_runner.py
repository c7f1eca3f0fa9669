"""The runner around a stage, on real PostgreSQL and Redis: every way in which a stage ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from schemas.logs import LogEnd
from schemas.messages import Job
from shared.clock import SystemClock
from shared.deployments.jobs import stage_job_id
from shared.deployments.state import Stage
from shared.errors import FailureCode, PlatformError, StageFailure
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.variable_service import ProjectVariable
from tests.support.deployment_world import create, entries, settings, world
from tests.support.held_lease import HeldLease
from tests.support.ssh_server import make_key
from workers.filesystem.trees import StageDirectories
from workers.jobs.stage_runner import StageRunner
from workers.pipeline.stage import StageContext, StageResult
from workers.snapshots.store import SnapshotMissing

__all__ = ["settings", "world"]
pytestmark = pytest.mark.integration

SECRET = "hunter2-hunter2"
KEY = make_key()[0]
CREDENTIALS = RepositoryCredentials("sshKey", "ssh://git.example.com:22", private_key=KEY)


class Function:
    def __init__(self, run: Callable[[StageContext], StageResult], reap: Callable[[str], None]) -> None:
        self._run, self.reap, self.take_over = run, reap, reap

    def run(self, context: StageContext) -> StageResult:
        return self._run(context)


@pytest.fixture
def run_stage(world: Any, tmp_path: Path) -> Callable[..., tuple[str, Any]]:
    """Runs one stage with this function under a lease; returns the lease's outcome."""

    def run(
        deployment_id: str,
        stage: Stage,
        function: Callable[[StageContext], StageResult],
        *,
        fence: int,
        reap: Callable[[str], None] = lambda _name: None,
    ):
        def open_log(deployment_id: str, stage: Stage, fence: int, redactor: Redactor) -> LogWriter:
            return LogWriter(
                world.log_store, world.database, world.notifier, deployment_id, stage.value, fence, redactor
            )

        runner = StageRunner(
            stage=stage,
            function=Function(function, reap),
            lifecycle=world.lifecycle,
            open_log=open_log,
            read_variables=lambda _project, _target: [
                ProjectVariable("PASSWORD", SECRET),
                ProjectVariable("CLOUDIFY_PACKAGE_MANAGER", "pnpm"),
                ProjectVariable("REGISTRY_TOKEN", "t0ken-of-a-registry", frozenset({Stage.INSTALL})),
                ProjectVariable("BOTH", "b0th", frozenset({Stage.INSTALL, Stage.BUILD})),
            ],
            read_credentials=lambda _project: CREDENTIALS,
            secrets_of=lambda _row: [],
            hold_slot=lambda tenant_id, slot, limits: world.queue.hold_slot(
                tenant_id, slot, limit=limits.concurrent_builds, weight=limits.weight
            ),
            directories=StageDirectories(tmp_path / "work"),
            limits=world.settings.limits,
            executor_name=world.settings.executor.name,
            clock=SystemClock(),
            worker="w",
            publisher=world.publisher,
        )
        job = Job(
            id=stage_job_id(deployment_id, stage),
            pool=stage.value,
            actor="run_stage",
            tenant_id=world.tenant_id,
            payload={"deployment_id": deployment_id},
            max_attempts=3,
        )
        lease = HeldLease(job, fence)
        runner.run(lease)
        return lease.outcome

    return run


def gives(**output: Any) -> Callable[[StageContext], StageResult]:
    return lambda _context: StageResult(dict(output))


def fails(error: Exception) -> Callable[[StageContext], StageResult]:
    def run(_context: StageContext) -> StageResult:
        raise error

    return run


def test_a_failure_says_nothing_secret_and_nothing_that_cannot_be_stored(world: Any, run_stage: Any):
    deployment_id = create(world)
    failure = StageFailure(FailureCode.COMMAND_FAILED, f"remote: \0 {SECRET} \udcff")
    assert run_stage(deployment_id, Stage.CLONE, fails(failure), fence=1) == ("done", [])
    resource = world.service.get(world.tenant_id, deployment_id)
    assert (resource.status, resource.error.code) == ("failed", "COMMAND_FAILED")
    assert resource.error.message == "remote: \ufffd *** \ufffd"
    log = entries(world, deployment_id)
    assert isinstance(log[-1], LogEnd)
    assert SECRET not in repr(log)


def test_a_stage_is_timed_though_an_earlier_one_recorded_a_malformed_output(world: Any, run_stage: Any):
    deployment_id = create(world)
    run_stage(deployment_id, Stage.CLONE, gives(source="a" * 64), fence=1)
    run_stage(deployment_id, Stage.INSTALL, gives(of="install"), fence=2)

    def timed() -> float:
        labels = {"phase": "build", "outcome": "failed"}
        return REGISTRY.get_sample_value("cloudify_build_phase_duration_seconds_count", labels) or 0.0

    before = timed()
    failure = StageFailure(FailureCode.COMMAND_FAILED, "The build command failed.")
    assert run_stage(deployment_id, Stage.BUILD, fails(failure), fence=3) == ("done", [])
    assert timed() == before + 1


def test_a_deploy_key_is_for_the_clone_alone_and_each_of_its_lines_is_masked_everywhere(world: Any, run_stage: Any):
    deployment_id = create(world)
    seen: list[Any] = []
    lines = [line for line in KEY.splitlines() if not line.startswith("-----")]

    def speak(context: StageContext) -> StageResult:
        seen.append(context.credentials)
        for line in lines:
            context.log.write("stdout", f"debug: {line}\n".encode())
        return StageResult({"source": "a" * 64, "dependencies": "b" * 64})

    for fence, stage in enumerate((Stage.CLONE, Stage.INSTALL), start=1):
        run_stage(deployment_id, stage, speak, fence=fence)
    assert seen == [CREDENTIALS, None]
    text = repr(entries(world, deployment_id))
    assert text.count("debug: ***") == 2 * len(lines)
    assert not any(line in text for line in lines)


def test_a_stage_gets_the_variables_that_are_meant_for_it(world: Any, run_stage: Any):
    deployment_id = create(world)
    seen: dict[str, dict[str, str]] = {}

    def remember(stage: Stage) -> Callable[[StageContext], StageResult]:
        def run(context: StageContext) -> StageResult:
            seen[stage.value] = dict(context.variables)
            return StageResult({"source": "a" * 64, "dependencies": "b" * 64, "output": "c" * 64})

        return run

    stages = (Stage.CLONE, Stage.INSTALL, Stage.BUILD, Stage.UPLOAD)
    for fence, stage in enumerate(stages, start=1):
        run_stage(deployment_id, stage, remember(stage), fence=fence)
    chosen = {"CLOUDIFY_PACKAGE_MANAGER": "pnpm", "BOTH": "b0th"}
    assert seen == {
        "clone": {},
        "install": chosen | {"REGISTRY_TOKEN": "t0ken-of-a-registry"},
        "build": chosen | {"PASSWORD": SECRET},
        "upload": {},
    }


def test_a_lost_snapshot_is_made_again_by_the_stage_that_made_it(world: Any, run_stage: Any):
    deployment_id = create(world)
    source, dependencies = "a" * 64, "b" * 64
    run_stage(deployment_id, Stage.CLONE, gives(source=source), fence=1)
    run_stage(deployment_id, Stage.INSTALL, gives(source=source, dependencies=dependencies), fence=2)
    lost = fails(SnapshotMissing(source, "is not in the object store"))
    assert run_stage(deployment_id, Stage.BUILD, lost, fence=3) == ("done", [f"{deployment_id}:clone"])
    resource = world.service.get(world.tenant_id, deployment_id)
    assert resource.status == "building"  # it never goes back
    assert {run.status for run in resource.stages} == {"retrying"}
    assert run_stage(deployment_id, Stage.CLONE, gives(source=source), fence=4) == (
        "done",
        [f"{deployment_id}:install"],
    )
    installed = gives(source=source, dependencies=dependencies)
    assert run_stage(deployment_id, Stage.INSTALL, installed, fence=5) == ("done", [f"{deployment_id}:build"])
    # Not for ever: a store that loses everything is the platform's failure in the end.
    outcome = ("", None)
    for fence in range(6, 30, 3):
        outcome = run_stage(deployment_id, Stage.BUILD, lost, fence=fence)
        if outcome[0] == "retry":
            break
        run_stage(deployment_id, Stage.CLONE, gives(source=source), fence=fence + 1)
        run_stage(deployment_id, Stage.INSTALL, installed, fence=fence + 2)
    assert outcome[0] == "retry"


def test_a_cancellation_accepted_while_the_last_stage_ends_holds(world: Any, run_stage: Any):
    deployment_id = create(world)
    for fence, stage in enumerate(list(Stage)[:-1], 1):
        run_stage(deployment_id, stage, gives(of=stage.value), fence=fence)

    def deploy(_context: StageContext) -> StageResult:
        with world.database.transaction() as connection:
            world.deployments.request_cancel(connection, world.tenant_id, deployment_id)
        return StageResult({"manifest": "d" * 64}, facts={"manifest_digest": "d" * 64})

    assert run_stage(deployment_id, Stage.DEPLOY, deploy, fence=9) == ("done", [])
    resource = world.service.get(world.tenant_id, deployment_id)
    assert (resource.status, resource.is_active, world.publisher.routes()) == ("cancelled", False, {})
    assert isinstance(entries(world, deployment_id)[-1], LogEnd)


def test_leftovers_of_a_dead_worker_are_looked_for_from_the_second_run_on(world: Any, run_stage: Any):
    deployment_id = create(world)
    reaped: list[str] = []
    lost = fails(PlatformError("The store is away."))
    assert run_stage(deployment_id, Stage.CLONE, lost, fence=1, reap=reaped.append)[0] == "retry"
    assert not reaped
    run_stage(deployment_id, Stage.CLONE, gives(source="a" * 64), fence=2, reap=reaped.append)
    assert reaped == [f"{deployment_id}-clone"]
    # Its end was recorded and its lease was lost: whatever this is, it is no first run.
    run_stage(deployment_id, Stage.CLONE, gives(source="a" * 64), fence=3, reap=reaped.append)
    assert reaped == [f"{deployment_id}-clone"] * 2


def test_a_redelivered_job_with_nothing_to_do_leaves_no_scratch_directory(world: Any, run_stage: Any, tmp_path: Path):
    """Its worker died after it had recorded the result, or the deployment ended meanwhile."""
    recorded, cancelled, failed, deleted = (create(world, branch=name) for name in ("a", "b", "c", "d"))
    reaped: list[str] = []
    run_stage(recorded, Stage.CLONE, gives(source="a" * 64), fence=1)
    with world.database.transaction() as connection:
        connection.execute("UPDATE tenants SET plan = 'ENTERPRISE'")
        world.deployments.request_cancel(connection, world.tenant_id, cancelled)
    world.terminations.finish_failed(world.deployments.find(world.tenant_id, failed), "TIMEOUT", Stage.CLONE, "Over.")
    with world.database.transaction() as connection:
        connection.execute("DELETE FROM deployments WHERE id = %s", (deleted,))
    ids = [recorded, cancelled, failed, deleted]
    for deployment_id in ids:
        left = tmp_path / "work" / deployment_id / "clone-1"
        left.mkdir(parents=True)
        (left / "file").write_text("x")
    outcomes = [run_stage(each, Stage.CLONE, fails(AssertionError()), fence=5, reap=reaped.append) for each in ids]
    assert outcomes == [("done", [f"{recorded}:install"]), ("done", []), ("done", []), ("done", [])]
    assert reaped == [f"{each}-clone" for each in ids]
    assert [each for each in ids if (tmp_path / "work" / each).exists()] == []


def test_a_later_run_keeps_its_scratch_directory(world: Any, run_stage: Any, tmp_path: Path):
    deployment_id = create(world)
    run_stage(deployment_id, Stage.CLONE, gives(source="a" * 64), fence=1)
    later = tmp_path / "work" / deployment_id / "clone-9"
    later.mkdir(parents=True)
    assert run_stage(deployment_id, Stage.CLONE, fails(AssertionError()), fence=2)[0] == "done"
    assert later.is_dir()


def test_a_deployment_beyond_the_plan_waits_for_its_slot(world: Any, run_stage: Any):
    first, second = create(world), create(world)
    world.lifecycle.begin_stage(world.tenant_id, first, Stage.CLONE, fence=1, worker="w")
    assert run_stage(second, Stage.CLONE, fails(AssertionError()), fence=2) == ("wait", 0.0)
    assert world.queue.running_set(world.tenant_id) == {first}
    assert world.service.get(world.tenant_id, second).status == "queued"
