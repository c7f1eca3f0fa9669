"""Decisions that race with a commit: each is taken on what the other has committed, never on what was before.

In every test the second connection waits for a lock of the first, which then commits (see `overtaken`).
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.accounts import CreateTokenRequest
from schemas.logs import LogEnd, LogStatus
from schemas.projects import SetVariableRequest
from shared.accounts.token_repository import NewToken, TokenRepository
from shared.accounts.token_service import MAXIMUM_TOKENS, TokenService
from shared.clock import SystemClock
from shared.db.database import Connection
from shared.deployments.state import DeploymentStatus, Stage
from shared.errors import Conflict, FailureCode
from shared.logs.archive.compactor import LogCompactor
from shared.projects.variable_repository import NewVariable, VariableRepository
from shared.projects.variable_service import VariableService
from shared.routing.changes import SiteArtifact, activation
from shared.secrets_box import SecretsBox
from shared.storage.object_store import S3ArtifactStore
from tests.support.deployment_world import create, run_to_end, settings, world
from tests.support.row_locks import overtaken
from workers.jobs.release_runner import ReleaseRunner
from workers.pipeline.lifecycle import Beginning

__all__ = ["settings", "world"]
pytestmark = pytest.mark.integration


def two_releases(world: Any) -> tuple[str, str]:
    """An older deployment, and the newer one that production serves."""
    older, newer = create(world), create(world)
    run_to_end(world, older)
    run_to_end(world, newer)
    return older, newer


def move_to(world: Any, deployment_id: str, connection: Connection) -> None:
    project = world.deployments.take_release_sequence(connection, world.tenant_id, world.project_id)
    assert world.releases.move_pointer(
        connection, world.project_id, deployment_id, project.release_sequence, is_pinned=False
    )


def delete_project(world: Any, connection: Connection) -> None:
    connection.execute("UPDATE projects SET deleting_at = now() WHERE id = %s", (world.project_id,))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE deployments SET deleting_at = now() WHERE id = %(id)s",
        "UPDATE deployments SET site_state = 'removing' WHERE id = %(id)s",
        "UPDATE projects SET deleting_at = now() WHERE id = %(project)s",
    ],
)
def test_a_preview_that_is_being_removed_gets_no_route(world: Any, change: str):
    preview = create(world, branch="topic", is_preview=True)
    run_to_end(world, preview)
    assert list(world.publisher.routes().values()) == [preview]
    with world.database.transaction() as connection:
        connection.execute(change, {"id": preview, "project": world.project_id})
        connection.execute("DELETE FROM routes")
    world.reconciler.reconcile_routes()
    assert world.publisher.routes() == {}


def test_a_release_moves_nothing_in_a_project_that_is_deleted(world: Any):
    older, newer = two_releases(world)
    world.release_service.rollback(world.tenant_id, older, requested_by=None)
    release = world.releases.find(world.releases.pending()[0].id)
    swap = partial(world.release_lifecycle.move, release, change_routes=world.publisher.change_routes)
    with overtaken(world.database, swap, partial(delete_project, world)) as waiter:
        assert waiter.result() is None
    assert world.publisher.routes() == {"demo": newer}
    assert world.releases.find(release.id).status == "failed"


def test_files_that_a_release_prepares_after_their_removal_are_discarded(world: Any):
    older, _ = two_releases(world)
    world.release_service.rollback(world.tenant_id, older, requested_by=None)
    release_id = world.releases.pending()[0].id
    runner = ReleaseRunner(releases=world.releases, lifecycle=world.release_lifecycle, publisher=world.publisher)
    lease: Any = SimpleNamespace(
        job=SimpleNamespace(payload={"release_id": release_id}), done=lambda _: None, lost=threading.Event()
    )

    def remove(connection: Connection) -> None:
        world.deployments.find_locked(connection, world.tenant_id, older)
        world.deployments.set_deleting(connection, older)

    with overtaken(world.database, partial(runner.run, lease), remove) as waiter:
        waiter.result()
    assert world.publisher.artifacts() == {older}
    assert world.releases.find(release_id).status == "failed"
    world.reconciler.reconcile_routes()
    assert world.publisher.artifacts() == set()


def test_a_locked_deployment_comes_with_what_is_joined_as_it_is_then(world: Any):
    deployment_id = create(world)

    def change(connection: Connection) -> None:
        world.deployments.find_locked(connection, world.tenant_id, deployment_id)
        connection.execute("UPDATE tenants SET plan = 'PRO' WHERE id = %s", (world.tenant_id,))

    def lock() -> Any:
        with world.database.transaction() as connection:
            return world.deployments.find_locked(connection, world.tenant_id, deployment_id)

    with overtaken(world.database, lock, change) as waiter:
        assert waiter.result().tenant_plan == "PRO"


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_deployment_that_a_worker_takes_up_is_not_ended_by_the_reconciler(world: Any, how: str):
    deployment_id = create(world)
    world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="dead")
    [row] = world.deployments.live()

    def take_up(connection: Connection) -> None:
        assert world.deployments.advance(connection, deployment_id, DeploymentStatus.CLONING, 2)

    def end() -> bool:
        if how == "cancelled":
            return world.terminations.finish_cancelled(row)
        return world.terminations.finish_failed(row, FailureCode.PLATFORM_ERROR, Stage.CLONE, "Given up.")

    with overtaken(world.database, end, take_up) as waiter:
        assert waiter.result() is False
    [row] = world.deployments.live()
    assert row.status == DeploymentStatus.CLONING
    assert end() is True


def test_a_variable_that_is_set_at_the_same_time_is_deleted(world: Any):
    variables = VariableRepository(world.database)
    service = VariableService(database=world.database, variables=variables, box=SecretsBox({"k1": bytes(32)}))
    service.set(world.tenant_id, world.project_id, "OTHER", SetVariableRequest(value="x", targets=["production"]))
    [sealed] = variables.sealed_for(world.project_id, "production")

    def set_it(connection: Connection) -> None:
        assert variables.lock_project(connection, world.tenant_id, world.project_id)
        variable = NewVariable(
            id="var_new",
            project_id=world.project_id,
            key="NEW",
            targets=["production"],
            stages=["build"],
            key_id=sealed.key_id,
            wrapped_key=sealed.wrapped_key,
            ciphertext=sealed.ciphertext,
        )
        variables.upsert(connection, variable)

    delete = partial(variables.delete, world.tenant_id, world.project_id, "NEW")
    with overtaken(world.database, delete, set_it) as waiter:
        assert waiter.result() is True
    assert [row.key for row in variables.list_of(world.tenant_id, world.project_id)] == ["OTHER"]


def test_the_last_token_that_an_account_may_have_is_made_once(world: Any):
    tokens = TokenRepository(world.database)
    service = TokenService(database=world.database, tokens=tokens, clock=SystemClock())
    with world.database.transaction() as connection:
        connection.execute("INSERT INTO users (id, email, password_hash) VALUES ('user_1', 'ada@example.com', 'x')")
    for number in range(MAXIMUM_TOKENS - 1):
        service.create("user_1", CreateTokenRequest(name=f"t{number}"))

    def create_one(connection: Connection) -> None:
        assert tokens.lock_user(connection, "user_1")
        token = NewToken(
            id="tok_1",
            user_id="user_1",
            name="x",
            prefix="cfy_xxxx",
            token_hash=bytes(32),
            scopes=[],
            expires_at=None,
            ancestor_ids=[],
        )
        tokens.insert(connection, token)

    create = partial(service.create, "user_1", CreateTokenRequest(name="y"))
    with overtaken(world.database, create, create_one) as waiter, pytest.raises(Conflict, match="revoke one first"):
        waiter.result()


def test_a_log_is_not_archived_in_a_project_that_is_deleted(world: Any, object_store_settings: Any, tmp_path: Path):
    deployment_id = create(world)
    end = [LogStatus(timestamp=1, status="cancelled"), LogEnd(timestamp=1, status="cancelled")]
    with world.database.transaction() as connection:
        world.log_store.append(connection, deployment_id, end, fence=None)
    store = S3ArtifactStore(object_store_settings)
    compactor = LogCompactor(database=world.database, store=store, directory=tmp_path, after_seconds=0.0)

    def change(connection: Connection) -> None:
        # As a removal that comes to the row and is undone, just when the project is deleted.
        connection.execute("SELECT id FROM deployments WHERE id = %s FOR UPDATE", (deployment_id,))
        delete_project(world, connection)

    with overtaken(world.database, partial(compactor.compact, deployment_id), change) as waiter:
        assert waiter.result() is False
    assert list(store.list("logs/")) == []


@pytest.mark.parametrize("plan", ["FREE", "PRO"])
def test_the_last_place_of_a_plan_goes_to_one_deployment(world: Any, plan: str):
    first, second, third, fourth = (create(world) for _ in range(4))
    with world.database.transaction() as connection:
        connection.execute("UPDATE tenants SET plan = %s WHERE id = %s", (plan, world.tenant_id))
    if plan == "PRO":
        for deployment_id in (third, fourth):
            world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.CLONE, fence=1, worker="w")

    def start_first(connection: Connection) -> None:
        world.deployments.lock_tenant(connection, world.tenant_id)
        assert world.deployments.advance(connection, first, DeploymentStatus.CLONING, 1)

    begin = partial(world.lifecycle.begin_stage, world.tenant_id, second, Stage.CLONE, fence=2, worker="w")
    with overtaken(world.database, begin, start_first) as waiter:
        begun = waiter.result()
    assert begun.beginning is Beginning.WAIT
    assert set(begun.started) == ({first} if plan == "FREE" else {first, third, fourth})
    assert world.service.get(world.tenant_id, second).stages == []


@pytest.mark.parametrize(("before", "after", "expected"), [("FREE", "PRO", "run"), ("PRO", "FREE", "wait")])
def test_a_plan_that_changes_while_a_deployment_starts_holds(world: Any, before: str, after: str, expected: str):
    first, second = create(world), create(world)
    with world.database.transaction() as connection:
        connection.execute("UPDATE tenants SET plan = %s WHERE id = %s", (before, world.tenant_id))
    world.lifecycle.begin_stage(world.tenant_id, first, Stage.CLONE, fence=1, worker="w")

    def change(connection: Connection) -> None:
        connection.execute("UPDATE tenants SET plan = %s WHERE id = %s", (after, world.tenant_id))

    begin = partial(world.lifecycle.begin_stage, world.tenant_id, second, Stage.CLONE, fence=2, worker="w")
    with overtaken(world.database, begin, change) as waiter:
        assert waiter.result().beginning == Beginning(expected)
    # What runs continues: a lower limit ends nothing.
    begun = world.lifecycle.begin_stage(world.tenant_id, first, Stage.INSTALL, fence=3, worker="w")
    assert begun.beginning is Beginning.RUN


def change_quietly(world: Any, sql: str, *parameters: object) -> None:
    """As a worker of a version that knows no routes would."""
    with world.database.transaction() as connection:
        connection.execute(sql, parameters)


def test_a_route_that_is_wrong_is_repaired_and_logged_once(world: Any):
    older, newer = two_releases(world)
    for wrong in ("UPDATE routes SET deployment_id = %s", "DELETE FROM routes WHERE deployment_id <> %s"):
        change_quietly(world, wrong, older)
        with capture_logs() as logs:
            world.reconciler.reconcile_routes()
            world.reconciler.reconcile_routes()
        assert world.publisher.routes() == {"demo": newer}
        assert [entry["event"] for entry in logs] == ["reconciler.route_repaired"]


def test_a_route_that_leads_nowhere_is_removed(world: Any):
    _, newer = two_releases(world)
    change_quietly(world, "INSERT INTO routes (host, deployment_id, number) VALUES ('stranger', %s, 1)", newer)
    world.reconciler.reconcile_routes()
    assert world.publisher.routes() == {"demo": newer}


def test_files_that_nobody_will_serve_again_are_discarded(world: Any):
    older, newer = two_releases(world)
    assert world.publisher.artifacts() == set()
    for deployment_id in (older, newer, "depl_gone"):
        world.publisher.prepare("demo", SiteArtifact(deployment_id, world.tenant_id, "d" * 64, False), is_stopped=bool)
    with world.database.transaction() as connection:
        world.deployments.set_deleting(connection, older)
    world.reconciler.reconcile_routes()
    assert world.publisher.artifacts() == {newer}


def test_a_repair_that_a_release_overtakes_changes_nothing(world: Any):
    """The repair has seen a wrong route and waits for the log; the release that made it wrong appends first."""
    older, newer = two_releases(world)
    world.release_service.rollback(world.tenant_id, older, requested_by=None)
    release = world.releases.find(world.releases.pending()[0].id)
    change_quietly(world, "UPDATE routes SET deployment_id = %s", older)

    def roll_back(connection: Connection) -> None:
        move_to(world, older, connection)
        world.publisher.change_routes(connection, activation("demo", older))

    with capture_logs() as logs, overtaken(world.database, world.reconciler.reconcile_routes, roll_back) as waiter:
        waiter.result()
    assert (world.publisher.routes(), logs) == ({"demo": older}, [])
    assert (newer, release.deployment_id) == (newer, older)
