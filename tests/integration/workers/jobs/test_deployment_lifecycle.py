"""The deployment service and the lifecycle on real PostgreSQL and Redis."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from schemas.logs import LogEnd
from schemas.messages import Job
from schemas.projects import SetVariableRequest
from shared.db.database import Database
from shared.db.paging import PageRequest
from shared.deployments.jobs import stage_job_id
from shared.deployments.state import DeploymentStatus, Stage
from shared.errors import Conflict, ErrorCode, LeaseLost, NotFound, ValidationFailed
from shared.identifiers import TENANT, new_identifier
from shared.plans import Plan, limits_of
from shared.projects.variable_repository import VariableRepository
from shared.projects.variable_service import VariableService
from shared.queue.errors import QueueFull
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import Disposition
from shared.secrets_box import SecretsBox
from shared.settings import ObjectStoreSettings
from shared.storage.keys import snapshot_key
from shared.storage.object_store import S3ArtifactStore
from shared.tracing import current_traceparent, span
from tests.support.artifact_stores import start_upload, uploads
from tests.support.deployment_world import create, entries, run_to_end, settings, world
from tests.support.log_rows import eventually
from workers.pipeline.deployment_view import deployment_view
from workers.pipeline.lifecycle import Beginning
from workers.pipeline.stage import StageResult
from workers.reconciler import Reconciler
from workers.snapshots.store import STAGED_SECONDS, STAGING_PREFIX, staging_key

__all__ = ["settings", "world"]
pytestmark = pytest.mark.integration


def test_a_created_deployment_is_a_row_a_job_and_a_log_entry(world: Any):
    deployment_id = create(world)
    resource = world.service.get(world.tenant_id, deployment_id)
    assert (resource.status, resource.branch, resource.url) == ("queued", "main", None)
    assert resource.queue is not None
    assert world.queue.find(stage_job_id(deployment_id, Stage.CLONE)) == "ready"
    assert [entry.status for entry in entries(world, deployment_id)] == ["queued"]


def test_file_addresses_are_judged_at_the_clone_by_the_user_who_set_them(world: Any, database: Database):
    """The deployment keeps who set its address; whether that is an administrator is looked up when the clone begins."""

    def execute(statement: str, *values: object) -> None:
        with database.transaction() as connection:
            connection.execute(statement.encode(), values)

    def may_read_files(deployment_id: str, fence: int) -> bool:
        begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=fence, worker="w")
        return deployment_view(begun.row).allows_files

    unknown = create(world)
    for name, is_administrator in (("user_admin", True), ("user_other", False)):
        execute(
            "INSERT INTO users (id, email, password_hash, is_platform_administrator) VALUES (%s, %s, 'x', %s)",
            name, f"{name}@example.com", is_administrator,
        )  # fmt: skip
    execute("UPDATE projects SET repository_set_by = 'user_admin' WHERE id = %s", world.project_id)
    first, second, third = create(world), create(world), create(world)
    execute("UPDATE projects SET repository_set_by = 'user_other' WHERE id = %s", world.project_id)
    others = create(world)
    assert may_read_files(first, 10)
    assert not may_read_files(unknown, 11)
    assert not may_read_files(others, 12)
    # A demoted administrator's stop, also a stage that is tried again; a deleted one's as well.
    execute("UPDATE users SET is_platform_administrator = false WHERE id = 'user_admin'")
    assert not may_read_files(second, 13)
    assert not may_read_files(first, 14)
    execute("DELETE FROM users WHERE id = 'user_admin'")
    assert not may_read_files(third, 15)


def test_another_tenant_sees_nothing(world: Any):
    deployment_id = create(world)
    with pytest.raises(NotFound):
        world.service.get(new_identifier(TENANT), deployment_id)
    page = world.service.list([new_identifier(TENANT)], page=PageRequest())
    assert page.items == []


def test_bad_fields_are_all_named(world: Any):
    with pytest.raises(ValidationFailed) as raised:
        create(world, branch="a..b", commit_sha="abc", priority=99)
    assert raised.value.details is not None
    assert {field["field"] for field in raised.value.details["fields"]} == {"branch", "commitSha", "priority"}


def test_a_tenant_has_a_bounded_number_of_unfinished_deployments(world: Any, database: Database):
    deployment_id = create(world)
    limit = limits_of(Plan.FREE).maximum_queued
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO deployments (id, tenant_id, project_id, repository_url, branch, release_sequence, host) "
            "SELECT 'depl_' || n, tenant_id, project_id, repository_url, branch, 1, host FROM deployments, "
            "generate_series(2, %s) n WHERE id = %s",
            (limit, deployment_id),
        )
    with pytest.raises(QueueFull):
        create(world)


def test_a_whole_life_and_its_log(world: Any):
    deployment_id = create(world)
    assert run_to_end(world, deployment_id) is True
    resource = world.service.get(world.tenant_id, deployment_id)
    assert (resource.status, resource.is_active, resource.url) == ("ready", True, "http://demo.localhost:8080")
    assert [run.status for run in resource.stages] == ["succeeded"] * 5
    log = entries(world, deployment_id)
    assert [entry.status for entry in log] == [
        "queued", "cloning", "installing", "building", "uploading", "deploying", "ready", "ready",
    ]  # fmt: skip
    assert isinstance(log[-1], LogEnd)


def test_a_stale_worker_changes_nothing(world: Any):
    deployment_id = create(world)
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="stale")
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=2, worker="fresh")
    with pytest.raises(LeaseLost):
        world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="stale")
    with pytest.raises(LeaseLost):
        world.lifecycle.succeed_stage(deployment_id, Stage.CLONE, fence=1, result=StageResult({"by": "stale"}))
    world.lifecycle.fail(deployment_id, Stage.CLONE, fence=1, code="TIMEOUT", message="stale")
    resource = world.service.get(world.tenant_id, deployment_id)
    assert resource.status == "cloning"
    assert [(run.status, run.attempt) for run in resource.stages] == [("retrying", 1), ("running", 2)]


def test_a_recorded_stage_is_not_run_again(world: Any):
    deployment_id = create(world)
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="w")
    for _ in range(2):  # the reply to the first was lost
        world.lifecycle.succeed_stage(deployment_id, Stage.CLONE, fence=1, result=StageResult({"source": "x"}))
    begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=2, worker="w")
    assert begun.beginning is Beginning.SKIP
    assert begun.outputs == {"clone": {"source": "x"}}


def test_a_stages_warnings_are_those_of_its_last_run(world: Any):
    deployment_id = create(world)
    for fence, warnings in ((1, ["first", "x" * 5000]), (2, ["second"]), (3, [])):
        world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=fence, worker="w")
        result = StageResult({"source": "x"}, warnings=warnings)
        world.lifecycle.succeed_stage(deployment_id, Stage.CLONE, fence=fence, result=result)
        shown = world.service.get(world.tenant_id, deployment_id).warnings
        assert [text[:6] for text in shown] == [text[:6] for text in warnings]
        assert all(len(text) <= 2000 for text in shown)
        world.lifecycle.rerun_from(deployment_id, Stage.CLONE, fence=fence, message="lost")


def test_a_finished_deployment_is_over_for_every_worker(world: Any):
    deployment_id = create(world)
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="w")
    world.lifecycle.fail(deployment_id, Stage.CLONE, fence=1, code="BRANCH_NOT_FOUND", message="There is none.")
    begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=2, worker="w")
    assert begun.beginning is Beginning.OVER
    resource = world.service.get(world.tenant_id, deployment_id)
    assert resource.error is not None
    assert (resource.error.code, resource.error.stage) == ("BRANCH_NOT_FOUND", "clone")


def test_cancel_of_a_waiting_deployment_removes_the_job(world: Any):
    deployment_id = create(world)
    assert world.service.cancel(world.tenant_id, deployment_id).status == "cancelled"
    assert world.queue.find(stage_job_id(deployment_id, Stage.CLONE)) is None
    assert world.service.cancel(world.tenant_id, deployment_id).status == "cancelled"
    assert isinstance(entries(world, deployment_id)[-1], LogEnd)


def test_cancel_after_the_end_is_a_conflict(world: Any):
    deployment_id = create(world)
    run_to_end(world, deployment_id)
    with pytest.raises(Conflict) as raised:
        world.service.cancel(world.tenant_id, deployment_id)
    assert raised.value.code == ErrorCode.ALREADY_FINISHED


def test_an_older_deployment_never_replaces_a_newer_one(world: Any):
    older, newer = create(world), create(world)
    assert run_to_end(world, newer) is True
    assert run_to_end(world, older) is False
    assert world.service.get(world.tenant_id, newer).is_active
    assert not world.service.get(world.tenant_id, older).is_active


def test_rollback_moves_the_pointer_once_and_pins(world: Any):
    first, second = create(world), create(world)
    run_to_end(world, first)
    run_to_end(world, second)
    world.release_service.rollback(world.tenant_id, first, requested_by=None)
    [pending] = world.releases.pending()
    release = world.releases.find(pending.id)
    for _ in range(2):  # delivered again
        assert world.release_lifecycle.move(release, change_routes=world.publisher.change_routes) is not None
    # It isn't done before the routers have followed.
    assert [waiting.id for waiting in world.releases.pending()] == [release.id]
    world.release_lifecycle.close(release.id)
    assert world.service.get(world.tenant_id, first).is_active
    assert world.publisher.routes() == {"demo": first}
    assert world.releases.pending() == []
    automatic = create(world, trigger="webhook")
    assert run_to_end(world, automatic) is False
    manual = create(world)
    assert run_to_end(world, manual) is True


def test_what_the_queue_lost_is_put_back_once_and_in_order(world: Any):
    ids = [create(world) for _ in range(5)]
    world.lifecycle.begin_stage(world.tenant_id, ids[0], Stage.CLONE, fence=1, worker="w")
    world.lifecycle.succeed_stage(ids[0], Stage.CLONE, fence=1, result=StageResult({"source": "x"}))
    world.redis.flushall()
    for _ in range(3):
        world.reconciler.run_once()
    assert world.queue.find(stage_job_id(ids[0], Stage.INSTALL)) == "ready"
    assert world.queue.running_set(world.tenant_id) == {ids[0]}
    for position, deployment_id in enumerate(ids[1:], 1):
        explanation = world.queue.explain(stage_job_id(deployment_id, Stage.CLONE))
        assert explanation is not None
        assert explanation.position == position
    stats = {pool.pool: pool.depth for pool in world.queue.stats()}
    assert sum(stats.values()) == 5


def test_a_worker_whose_build_was_killed_for_a_cancellation_can_not_fail_it(world: Any):
    deployment_id = create(world)
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="forgotten")
    with world.database.transaction() as connection:
        world.deployments.request_cancel(connection, world.tenant_id, deployment_id)
    begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=2, worker="w")
    assert begun.beginning is Beginning.CANCEL
    world.lifecycle.fail(deployment_id, Stage.CLONE, fence=1, code="COMMAND_FAILED", message="killed")
    world.lifecycle.cancel(deployment_id, fence=2)
    assert world.service.get(world.tenant_id, deployment_id).status == "cancelled"


def test_an_old_redis_that_is_restored_runs_nothing_twice(world: Any):
    finished = create(world)
    [acquired] = world.queue.acquire("clone", 1, worker="w", request_id="r").jobs
    assert acquired.job.slot == finished
    backup = {key: world.redis.dump(key) for key in world.redis.keys("*")}
    run_to_end(world, finished, fence=acquired.token)
    live = create(world)
    world.redis.flushall()
    for key, value in backup.items():
        world.redis.restore(key, 0, value)
    for _ in range(2):
        world.reconciler.reconcile_deployments()
        world.reconciler.reconcile_slots()
    # The live one is queued once; the worker that gets the finished one's old job finds that it is over.
    assert world.queue.find(stage_job_id(live, Stage.CLONE)) == "ready"
    assert sum(pool.depth for pool in world.queue.stats()) == 1
    assert not world.queue.acquire("clone", 5, worker="w2", request_id="r2").jobs
    fence = acquired.token + 1
    begun = world.lifecycle.begin_stage(world.tenant_id, finished, Stage.CLONE, fence=fence, worker="w2")
    assert begun.beginning is Beginning.OVER
    assert world.queue.finish(acquired.job.id, acquired.token, Disposition.DONE)
    assert world.queue.running_set(world.tenant_id) <= {live}
    assert [job.job.slot for job in world.queue.acquire("clone", 5, worker="w3", request_id="r3").jobs] == [live]


def test_one_reconciler_works_at_a_time(world: Any, database: Database):
    with database.try_lock(7, maximum_seconds=60) as first, database.try_lock(7, maximum_seconds=60) as second:
        assert (first, second) == (True, False)
    with database.try_lock(7, maximum_seconds=60) as third:
        assert third


@contextmanager
def running(*reconcilers: Reconciler) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=reconciler.run, args=(stop,)) for reconciler in reconcilers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_repair_of_the_queue_waits_for_no_other_part(world: Any):
    """A first reconciler that is stuck in every other part holds their locks."""
    stuck, go_on = threading.Semaphore(0), threading.Event()

    def get_stuck() -> None:
        stuck.release()
        assert go_on.wait(60)

    first, second = world.make_reconciler(world.queue), world.make_reconciler(world.queue)
    first.responsibilities = tuple(
        part if part.name == "queue" else dataclasses.replace(part, steps=(get_stuck,))
        for part in first.responsibilities
    )
    deployment_id = create(world)
    with running(first, second):
        try:
            for _ in first.responsibilities[1:]:
                assert stuck.acquire(timeout=60)
            world.redis.flushall()
            eventually(lambda: world.queue.find(stage_job_id(deployment_id, Stage.CLONE)) == "ready", 60)
        finally:
            go_on.set()


def test_another_reconciler_takes_over_from_one_that_is_stuck(world: Any):
    """The first holds the queue's lock and never returns; PostgreSQL ends its session."""
    stuck, go_on = threading.Event(), threading.Event()

    def get_stuck() -> None:
        stuck.set()
        assert go_on.wait(60)

    first, second = world.make_reconciler(world.queue), world.make_reconciler(world.queue)
    first.responsibilities = (dataclasses.replace(first.responsibilities[0], steps=(get_stuck,), lock_seconds=0.3),)
    deployment_id = create(world)
    with running(first):
        try:
            assert stuck.wait(60)
            world.redis.flushall()
            with running(second):
                eventually(lambda: world.queue.find(stage_job_id(deployment_id, Stage.CLONE)) == "ready", 60)
        finally:
            go_on.set()


def test_uploads_that_nobody_completed_are_aborted(world: Any, object_store_settings: ObjectStoreSettings):
    store = S3ArtifactStore(object_store_settings)
    start_upload(object_store_settings, "snapshots/a")
    for seconds, left in ((STAGED_SECONDS, 1), (0.0, 0)):
        sweep = partial(store.abort_uploads_older, seconds)
        world.make_reconciler(world.queue, abort_uploads=sweep).delete_forgotten_objects()
        assert len(uploads(object_store_settings)) == left


def test_what_runs_left_in_the_object_store_is_deleted(world: Any, object_store_settings: ObjectStoreSettings):
    store = S3ArtifactStore(object_store_settings)
    kept = snapshot_key(world.tenant_id, "a" * 64)
    for key in (staging_key("run-1/build"), staging_key("doctor/1"), kept):
        store.put_bytes(key, b"packed")
    for seconds, left in (
        (STAGED_SECONDS, {staging_key("run-1/build"), staging_key("doctor/1"), kept}),
        (0.0, {kept}),
    ):
        delete = partial(store.delete_older, STAGING_PREFIX, seconds)
        world.make_reconciler(world.queue, delete_staged=delete).run_once()
        assert set(store.list("")) == left


def test_a_slot_that_no_live_deployment_holds_is_freed(world: Any):
    deployment_id = create(world)
    world.queue.hold_slot(world.tenant_id, "depl_gone", limit=1, weight=1)
    world.queue.hold_slot(world.tenant_id, deployment_id, limit=1, weight=1)
    world.reconciler.reconcile_slots()
    assert world.queue.running_set(world.tenant_id) == {deployment_id}


def test_a_cancellation_whose_worker_is_gone_is_finished(world: Any):
    deployment_id = create(world)
    with world.database.transaction() as connection:
        world.deployments.request_cancel(connection, world.tenant_id, deployment_id)
    world.redis.flushall()
    world.reconciler.run_once()
    assert world.service.get(world.tenant_id, deployment_id).status == DeploymentStatus.CANCELLED


def test_delete_hides_at_once_and_asks_for_the_removal(world: Any):
    deployment_id = create(world)
    with pytest.raises(Conflict) as raised:
        world.service.delete(world.tenant_id, deployment_id)
    assert raised.value.code == ErrorCode.DEPLOYMENT_ACTIVE
    world.service.cancel(world.tenant_id, deployment_id)
    world.service.delete(world.tenant_id, deployment_id)
    with pytest.raises(NotFound):
        world.service.get(world.tenant_id, deployment_id)
    assert [row.id for row in world.sites.removing()] == [deployment_id]


def test_pages_are_complete_while_rows_are_added(world: Any):
    made = [create(world) for _ in range(7)]
    seen: list[str] = []
    page = world.service.list([world.tenant_id], page=PageRequest(limit=3))
    while True:
        seen += [item.id for item in page.items]
        if page.position is None:
            break
        create(world)
        page = world.service.list([world.tenant_id], page=PageRequest(limit=3, after=page.position))
    assert seen == list(reversed(made))


def test_a_cancellation_is_confirmed_by_the_worker_that_made_sure_that_nothing_runs(world: Any):
    """A stage has begun and the queue has lost its job: its worker may be cut off while the build is still running."""
    deployment_id = create(world)
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="cut off")
    world.redis.flushall()
    assert world.service.cancel(world.tenant_id, deployment_id).status == "cloning"
    assert world.queue.find(stage_job_id(deployment_id, Stage.CLONE)) == "ready"
    assert world.queue.running_set(world.tenant_id) == {deployment_id}
    world.redis.flushall()
    world.reconciler.run_once()
    assert world.queue.find(stage_job_id(deployment_id, Stage.CLONE)) == "ready"
    begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=2, worker="next")
    assert begun.beginning is Beginning.CANCEL


def test_a_cancellation_accepted_while_the_queue_was_away_reaches_the_worker(world: Any):
    deployment_id = create(world)
    [job] = world.queue.acquire("clone", 1, worker="w", request_id="r").jobs
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=job.token, worker="w")
    with world.database.transaction() as connection:
        world.deployments.request_cancel(connection, world.tenant_id, deployment_id)
    world.reconciler.run_once()
    assert world.service.get(world.tenant_id, deployment_id).status == "cloning"
    [again] = world.queue.acquire("clone", 1, worker="w", request_id="r").jobs
    assert again.is_cancelled


def test_a_row_that_cannot_be_repaired_does_not_hold_up_the_others(world: Any):
    first, second = create(world), create(world)
    world.redis.flushall()

    class StumblingQueue(RedisJobQueue):
        def find(self, job_id: str) -> str | None:
            if first in job_id:
                raise RuntimeError("a bug")
            return super().find(job_id)

    world.make_reconciler(StumblingQueue(world.redis, lease_seconds=30)).run_once()
    assert world.queue.find(stage_job_id(second, Stage.CLONE)) == "ready"


def test_removals_and_releases_outlive_their_dead_jobs(world: Any):
    first, second = create(world), create(world)
    run_to_end(world, first)
    run_to_end(world, second)
    with span("request"):
        trace = current_traceparent()
        world.release_service.rollback(world.tenant_id, first, requested_by=None)
    third = create(world)
    world.service.cancel(world.tenant_id, third)
    world.service.delete(world.tenant_id, third)
    jobs = []
    for pool in ("rollback", "preview-cleanup"):
        [job] = world.queue.acquire(pool, 1, worker="w", request_id=pool).jobs
        world.queue.finish(job.job.id, job.token, Disposition.DEAD, delay_seconds=0, reason="crashed", next_jobs=[])
        assert world.queue.find(job.job.id) == "dead"
        jobs.append(job.job.id)
    world.reconciler.run_once()
    assert [world.queue.find(job) for job in jobs] == ["ready", "ready"]
    # The release is still a part of the request's trace.
    [again] = world.queue.acquire("rollback", 1, worker="w", request_id="again").jobs
    assert again.job.traceparent == trace is not None


def test_a_stage_that_is_enqueued_again_joins_the_trace_of_its_request(world: Any):
    with span("request"):
        trace = current_traceparent()
        create(world)
    world.redis.flushall()
    world.reconciler.run_once()
    [again] = world.queue.acquire("clone", 1, worker="w", request_id="again").jobs
    assert again.job.traceparent == trace is not None


def lose_two_workers(world: Any, pool: str) -> Job:
    """The pool's next job, under which two workers had to be ended."""
    for _ in range(2):
        [job] = world.queue.acquire(pool, 1, worker="w", request_id=uuid.uuid4().hex).jobs
        world.queue.hand_back(pool, "w", counts=True)
    return job.job


def test_a_job_that_ended_two_workers_fails_as_the_platforms_failure(world: Any):
    poison = create(world)
    lose_two_workers(world, "clone")
    world.reconciler.run_once()
    resource = world.service.get(world.tenant_id, poison)
    assert (resource.status, resource.error.code, resource.error.stage) == ("failed", "WORKER_LOST", "clone")
    assert world.queue.running_set(world.tenant_id) == set()
    assert world.queue.acquire("clone", 9, worker="w", request_id="r").jobs == ()
    # A release and a removal aren't tried again either; the release says so.
    first, second = create(world), create(world)
    run_to_end(world, first)
    run_to_end(world, second)
    world.release_service.rollback(world.tenant_id, first, requested_by=None)
    world.service.delete(world.tenant_id, poison)
    removal = lose_two_workers(world, "preview-cleanup")
    lost = lose_two_workers(world, "rollback")
    world.reconciler.run_once()
    assert [world.queue.find(job.id) for job in (lost, removal)] == ["dead", "dead"]
    assert world.releases.find(lost.payload["release_id"]).status == "failed"


def test_a_release_of_a_deleted_deployment_moves_nothing(world: Any):
    first, second = create(world), create(world)
    run_to_end(world, first)
    run_to_end(world, second)
    world.release_service.rollback(world.tenant_id, first, requested_by=None)
    [pending] = world.releases.pending()
    release = world.releases.find(pending.id)
    world.service.delete(world.tenant_id, first)
    assert world.release_lifecycle.move(release, change_routes=world.publisher.change_routes) is None
    assert world.publisher.routes() == {"demo": second}
    assert world.service.get(world.tenant_id, second).is_active
    assert world.releases.pending() == []


def test_the_former_deployment_is_out_of_date_while_another_one_runs(world: Any):
    """The branch went from one commit to another and back: the one between still runs and will be served."""
    first = create(world, commit_sha="a" * 40)
    assert run_to_end(world, first)
    between = create(world, commit_sha="b" * 40)
    back = create(world, commit_sha="a" * 40, if_changed=True)

    former = world.former_deployments.find(back)
    assert (former.commit_sha, former.is_otherwise_changed) == ("a" * 40, True)
    # A preview takes nothing's place, and what was asked for later is no reason.
    preview = create(world, branch="topic", is_preview=True)
    assert world.former_deployments.find(preview) is None
    assert world.former_deployments.find(between).is_otherwise_changed is False

    world.service.cancel(world.tenant_id, between)
    assert world.former_deployments.find(back).is_otherwise_changed is False


def test_a_deleted_variable_is_a_reason_to_build(world: Any):
    variables = VariableRepository(world.database)
    service = VariableService(database=world.database, variables=variables, box=SecretsBox({"k1": bytes(32)}))
    for key in ("KEPT", "GONE"):
        service.set(world.tenant_id, world.project_id, key, SetVariableRequest(value="x", targets=["production"]))
    assert run_to_end(world, create(world, commit_sha="a" * 40))
    again = create(world, commit_sha="a" * 40, if_changed=True)
    assert world.former_deployments.find(again).is_otherwise_changed is False

    with pytest.raises(NotFound):
        service.delete(world.tenant_id, world.project_id, "OTHER")
    with pytest.raises(NotFound):
        service.delete(new_identifier(TENANT), world.project_id, "GONE")
    assert world.former_deployments.find(again).is_otherwise_changed is False
    service.delete(world.tenant_id, world.project_id, "GONE")
    assert world.former_deployments.find(again).is_otherwise_changed is True
    assert [variable.key for variable in service.list(world.tenant_id, world.project_id)] == ["KEPT"]
