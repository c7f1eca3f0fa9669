"""Which deployments' pods should stand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import LiteralString

import msgspec
import pytest
from psycopg.types.json import Jsonb

from shared.db.database import Database
from shared.releases.route_repair import RouteRepair
from shared.releases.site_pod_repository import SitePodRepository
from shared.routing.changes import RouteChange, SiteArtifact, activation, discard, removal
from shared.routing.log import RouteLog

pytestmark = pytest.mark.integration


_DEPLOYMENT = """
INSERT INTO deployments (id, tenant_id, project_id, repository_url, branch, settings, status, release_sequence, host,
                         manifest_digest, site_state, finished_at, error_code, is_preview)
VALUES (%(id)s, 'ten_1', 'proj_1', 'https://x.example', 'main', %(settings)s, %(status)s, 1, %(host)s,
        repeat('a', 64), %(site_state)s, %(finished_at)s, %(error_code)s, %(is_preview)s)
"""


class World:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.log = RouteLog(database)
        self.execute("INSERT INTO tenants (id, name) VALUES ('ten_1', 'tests')")
        self.execute("INSERT INTO projects (id, tenant_id, name, slug) VALUES ('proj_1', 'ten_1', 'Demo', 'demo')")

    def execute(self, query: LiteralString) -> None:
        with self.database.transaction() as connection:
            connection.execute(query)

    def deployment(self, name: str, *, status: str = "ready", preview: bool = False, runtime: str = "pods") -> None:
        parameters = {
            "id": name,
            "settings": Jsonb({"runtime": runtime, "replicas": 2}),
            "status": status,
            "host": "preview" if preview else "demo",
            "site_state": "published" if status == "ready" else "none",
            "finished_at": datetime.now(UTC) if status in ("ready", "failed") else None,
            "error_code": "TIMEOUT" if status == "failed" else None,
            "is_preview": preview,
        }
        with self.database.transaction() as connection:
            connection.execute(_DEPLOYMENT, parameters)

    def serve(self, name: str, host: str = "demo") -> None:
        artifact = SiteArtifact(name, "ten_1", "a" * 64, False, pods_address="10.0.0.1:8080")
        with self.database.transaction() as connection:
            self.log.prepare(connection, host, artifact, fetcher=None)
        self.change(activation(host, name))
        # Routers that don't know yet have learnt of it meanwhile.
        self.execute("UPDATE route_artifacts SET left_at = left_at - interval '10 minutes'")

    def change(self, *changes: RouteChange) -> None:
        with self.database.transaction() as connection:
            self.log.append(connection, *changes)

    def standing(self, former: int = 1) -> set[str]:
        return {site.deployment_id for site in SitePodRepository(self.database).standing(former=former)}


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_what_is_served_and_the_last_former_one_stand(world: World) -> None:
    for name in ("depl_1", "depl_2", "depl_3"):
        world.deployment(name)
        world.serve(name)
    assert world.standing() == {"depl_2", "depl_3"}
    assert world.standing(former=0) == {"depl_3"}
    assert world.standing(former=5) == {"depl_1", "depl_2", "depl_3"}
    # After a rollback, the one before is the former one.
    world.serve("depl_1")
    assert world.standing() == {"depl_1", "depl_3"}
    assert world.standing(former=0) == {"depl_1"}


def test_a_deployment_with_files_has_no_pods(world: World) -> None:
    world.deployment("depl_files", runtime="files")
    world.deployment("depl_pods")
    world.serve("depl_files")
    world.serve("depl_pods")
    world.serve("depl_files")
    assert world.standing() == {"depl_pods"}


def test_what_is_being_published_or_released_stands(world: World) -> None:
    world.deployment("depl_1", status="deploying")
    world.deployment("depl_2", status="uploading")
    world.deployment("depl_3", status="failed")
    world.deployment("depl_4")
    world.deployment("depl_5")
    world.execute(
        "INSERT INTO releases (id, tenant_id, project_id, deployment_id, kind, release_sequence) "
        "VALUES ('rel_1', 'ten_1', 'proj_1', 'depl_4', 'rollback', 2)"
    )
    assert world.standing() == {"depl_1", "depl_4"}
    world.execute("UPDATE releases SET status = 'done', finished_at = now()")
    assert world.standing() == {"depl_1"}


def test_what_has_just_been_replaced_stays_for_a_moment(world: World) -> None:
    for name in ("depl_1", "depl_2"):
        world.deployment(name)
        world.serve(name)
    world.execute("UPDATE route_artifacts SET left_at = now() WHERE deployment_id = 'depl_1'")
    assert world.standing(former=0) == {"depl_1", "depl_2"}


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE deployments SET deleting_at = now()",
        "UPDATE deployments SET site_state = 'removing'",
        "UPDATE projects SET deleting_at = now()",
        "DELETE FROM projects",
    ],
)
def test_nothing_that_is_deleted_stands(world: World, end: LiteralString) -> None:
    world.deployment("depl_1")
    world.deployment("depl_2", preview=True)
    world.serve("depl_1")
    world.serve("depl_2", host="preview")
    assert world.standing() == {"depl_1", "depl_2"}
    world.execute(end)
    assert world.standing() == set()


def test_when_a_host_left_a_deployment_is_recorded_with_the_change(world: World) -> None:
    for name in ("depl_1", "depl_2"):
        world.deployment(name)
        world.serve(name)
    query = "SELECT deployment_id FROM route_artifacts WHERE left_at IS NOT NULL"
    assert world.database.fetch_values(str, query) == ["depl_1"]
    # The same again is no departure.
    world.change(activation("demo", "depl_2"))
    assert world.database.fetch_values(str, query) == ["depl_1"]
    world.change(removal("demo"), discard("depl_1"))
    assert world.database.fetch_values(str, query) == ["depl_2"]


def test_a_repaired_route_keeps_the_address(world: World) -> None:
    world.deployment("depl_1")
    world.serve("depl_1")
    world.execute("UPDATE deployments SET is_active = true")
    world.execute("DELETE FROM routes")
    [repaired] = RouteRepair(world.database, world.log).repair()
    assert repaired.deployment_id == "depl_1"
    artifact = world.log.find_artifact("depl_1")
    assert artifact is not None
    assert artifact.pods_address == "10.0.0.1:8080"
    assert msgspec.structs.replace(artifact, pods_address=None).manifest_digest == "a" * 64
