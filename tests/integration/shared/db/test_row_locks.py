"""Decisions that race with a commit: each is taken on what the other has committed, never on what was before.

In every test the second connection waits for a lock of the first, which then commits (see `overtaken`).
"""

from __future__ import annotations

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
from shared.secrets_box import SecretsBox
from shared.storage.object_store import S3ArtifactStore
from tests.support.deployment_world import create, run_to_end, settings, world
from tests.support.row_locks import overtaken
from workers.jobs.release_runner import ReleaseRunner
from workers.pipeline.lifecycle import Beginning
from workers.reconciler import Reconciler

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


def test_a_route_is_not_repaired_with_what_a_release_has_replaced(world: Any):
    older, newer = two_releases(world)
    acts: list[str] = []
    repair = partial(world.releases.while_active, world.project_id, newer, lambda: acts.append("routed"))
    with overtaken(world.database, repair, partial(move_to, world, older)) as waiter:
        assert waiter.result() is False
    assert acts == []
    assert world.releases.while_active(world.project_id, older, lambda: acts.append("routed")) is True
    assert acts == ["routed"]


@pytest.mark.parametrize("how", ["removed", "expired"])
def test_the_route_of_a_preview_is_not_repaired_while_it_is_removed(world: Any, how: str):
    preview = create(world, branch="topic", is_preview=True)
    run_to_end(world, preview)

    def change(connection: Connection) -> None:
        if how == "removed":
            world.deployments.find_locked(connection, world.tenant_id, preview)
            world.deployments.set_deleting(connection, preview)
        else:
            connection.execute("UPDATE deployments SET site_state = 'removing' WHERE id = %s", (preview,))

    acts: list[str] = []
    repair = partial(world.releases.while_active, world.project_id, preview, lambda: acts.append("routed"))
    with overtaken(world.database, repair, change) as waiter:
        assert waiter.result() is False
    assert acts == []


def test_the_route_of_a_project_is_not_repaired_while_it_is_deleted(world: Any):
    _, newer = two_releases(world)
    assert [site.host for site in world.releases.active_sites()] == ["demo"]
    acts: list[str] = []
    repair = partial(world.releases.while_active, world.project_id, newer, lambda: acts.append("routed"))
    with overtaken(world.database, repair, partial(delete_project, world)) as waiter:
        assert waiter.result() is False
    assert acts == []
    assert world.releases.active_sites() == []


def test_a_release_moves_nothing_in_a_project_that_is_deleted(world: Any):
    older, _ = two_releases(world)
    world.release_service.rollback(world.tenant_id, older, requested_by=None)
    release = world.releases.find(world.releases.pending()[0].id)
    acts: list[str] = []
    swap = partial(world.release_lifecycle.release, release, activate=lambda: acts.append("routed"))
    with overtaken(world.database, swap, partial(delete_project, world)) as waiter:
        assert waiter.result() is False
    assert acts == []
    assert world.releases.find(release.id).status == "failed"


def test_files_that_a_release_publishes_after_their_removal_are_removed(world: Any):
    older, _ = two_releases(world)
    world.release_service.rollback(world.tenant_id, older, requested_by=None)
    release_id = world.releases.pending()[0].id
    router = Router({}, {}, is_published=False)
    runner = ReleaseRunner(
        releases=world.releases,
        sites=world.sites,
        lifecycle=world.release_lifecycle,
        publisher=router,  # type: ignore[arg-type]
        artifacts=SimpleNamespace(manifest=lambda *_: None, blobs=lambda *_: {}),  # type: ignore[arg-type]
    )
    lease: Any = SimpleNamespace(job=SimpleNamespace(payload={"release_id": release_id}), done=lambda _: None)

    def remove(connection: Connection) -> None:
        world.deployments.find_locked(connection, world.tenant_id, older)
        world.deployments.set_deleting(connection, older)

    with overtaken(world.database, partial(runner.run, lease), remove) as waiter:
        waiter.result()
    assert router.acts == ["published", "removed"]
    assert world.releases.find(release_id).status == "failed"


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


class Router:
    """A publisher that serves everything; `sites` answers what `seen` holds, which may be out of date."""

    def __init__(self, routes: dict[str, str], seen: dict[str, str], is_published: bool = True) -> None:
        self.routes, self.seen, self.published = routes, seen, is_published
        self.acts: list[str] = []

    def sites(self) -> dict[str, str]:
        return self.seen

    def is_published(self, _deployment_id: str) -> bool:
        return self.published

    def activate(self, label: str, deployment_id: str) -> str | None:
        former = self.routes.get(label)
        self.routes[label] = deployment_id
        return former

    def publish(self, *_arguments: Any, is_preview: bool) -> None:
        self.acts.append("published")

    def verify(self, label: str, deployment_id: str) -> None:
        assert self.current(label) == deployment_id

    def current(self, label: str) -> str | None:
        return self.routes.get(label)

    def deactivate(self, label: str) -> None:
        self.routes.pop(label, None)

    def remove_deployment(self, _deployment_id: str) -> None:
        self.acts.append("removed")


def reconciler_of(world: Any, router: Router) -> Reconciler:
    return Reconciler(
        database=world.database,
        queue=world.queue,
        deployments=world.deployments,
        stage_runs=world.stage_runs,
        releases=world.releases,
        sites=world.sites,
        terminations=world.terminations,
        publisher=router,  # type: ignore[arg-type]
        artifacts=None,  # type: ignore[arg-type]
        clock=SystemClock(),
        interval_seconds=1,
    )


def test_a_repaired_route_is_logged_only_when_it_was_wrong(world: Any):
    older, newer = two_releases(world)
    with capture_logs() as logs:
        # A release came between the two looks: the router is right already.
        right = Router({"demo": newer}, {"demo": older})
        reconciler_of(world, right).reconcile_routes()
    assert (right.routes, logs) == ({"demo": newer}, [])
    with capture_logs() as logs:
        wrong = Router({"demo": older}, {"demo": older})
        reconciler_of(world, wrong).reconcile_routes()
    assert wrong.routes == {"demo": newer}
    assert [entry["event"] for entry in logs] == ["reconciler.route_mended"]


def test_a_route_that_a_release_overtakes_is_neither_changed_nor_logged(world: Any):
    older, newer = two_releases(world)
    router = Router({"demo": older}, {})
    reconciler = reconciler_of(world, router)
    with capture_logs() as logs:
        # It waits for the project's lock with `newer` in its hands.
        with overtaken(world.database, reconciler.reconcile_routes, partial(move_to, world, older)) as waiter:
            waiter.result()
    assert (router.routes, logs) == ({"demo": older}, [])
    assert newer != older
