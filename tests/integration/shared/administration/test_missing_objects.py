"""What the object store lacks: by name for live sites, as numbers for the rest."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from schemas.artifacts import Manifest, ManifestFile
from shared.administration.missing_objects import MissingObject, ObjectComparison
from shared.db.database import Database
from shared.settings import ObjectStoreSettings
from shared.storage.keys import blob_key, manifest_key, snapshot_key
from shared.storage.object_store import S3ArtifactStore

pytestmark = pytest.mark.integration

PAGE, ZIPPED, STYLE = "1" * 64, "2" * 64, "3" * 64
SNAPSHOT = "4" * 64
TENANT = "tenant_1"
ROWS = """
INSERT INTO users (id, email, password_hash) VALUES ('user_1', 'ada@example.com', 'x');
INSERT INTO tenants (id, name, personal_user_id) VALUES ('tenant_1', 'x', 'user_1');
INSERT INTO projects (id, tenant_id, name, slug, release_sequence) VALUES ('proj_1', 'tenant_1', 'hello', 'hello', 3);
"""
DEPLOYMENT = """
INSERT INTO deployments (id, tenant_id, project_id, status, repository_url, branch, release_sequence, host, site_state,
  manifest_digest, is_preview, is_active, finished_at)
VALUES (%(id)s, 'tenant_1', 'proj_1', 'ready', 'https://x.example/r', 'main', 1, %(host)s, 'published', %(digest)s,
  %(is_preview)s, %(is_active)s, now())
"""


def manifest(*digests: str) -> Manifest:
    page, *others = digests
    variants = dict.fromkeys(["gzip"], others[0]) if others else {}
    return Manifest(
        files={"index.html": ManifestFile(digest=page, size=1, content_type="text/html", variants=variants)}
    )


@dataclass
class World:
    database: Database
    store: S3ArtifactStore

    def deploy(self, host: str, artifact: Manifest, *, is_preview: bool = False, is_active: bool = False) -> None:
        parameters = {
            "id": f"depl_{host}",
            "host": host,
            "digest": artifact.digest,
            "is_preview": is_preview,
            "is_active": is_active,
        }
        with self.database.transaction() as connection:
            connection.execute(DEPLOYMENT, parameters)

    def put(self, artifact: Manifest, *blobs: str) -> None:
        self.store.put_bytes(manifest_key(TENANT, artifact.digest), artifact.encode())
        for digest in blobs:
            self.store.put_bytes(blob_key(TENANT, digest), b"x")


@pytest.fixture
def world(database: Database, object_store_settings: ObjectStoreSettings) -> World:
    with database.transaction() as connection:
        connection.execute(ROWS)
    return World(database, S3ArtifactStore(object_store_settings))


def test_nothing_is_missing(world: World) -> None:
    site, preview = manifest(PAGE, ZIPPED), manifest(STYLE)
    world.deploy("hello", site, is_active=True)
    world.deploy("preview", preview, is_preview=True)
    world.put(site, PAGE, ZIPPED)
    world.put(preview, STYLE)
    found = ObjectComparison(world.database, world.store).compare()
    assert (found.missing, found.sites, found.rollback_manifests, found.snapshots) == ((), 2, 0, 0)


def test_objects_of_live_sites_are_named_once_with_all_sites_that_need_them(world: World) -> None:
    site, preview, former = manifest(PAGE, ZIPPED), manifest(PAGE), manifest(STYLE)
    world.deploy("hello", site, is_active=True)
    world.deploy("one", preview, is_preview=True)
    world.deploy("two", preview, is_preview=True)
    world.deploy("former", former)
    world.put(site)
    with world.database.transaction() as connection:
        connection.execute(
            "INSERT INTO snapshots (tenant_id, scope, kind, key, group_name, digest, size_bytes, components, output) "
            "VALUES ('tenant_1', 's', 'k', 'a', 'g', %(lost)s, 1, '{}', '{}'), "
            "('tenant_1', 's', 'k', 'b', 'g', %(kept)s, 1, '{}', '{}')",
            {"lost": "5" * 64, "kept": SNAPSHOT},
        )
    world.store.put_bytes(snapshot_key(TENANT, SNAPSHOT), b"x")
    found = ObjectComparison(world.database, world.store).compare()
    assert set(found.missing) == {
        MissingObject(blob_key(TENANT, PAGE), "missing", ("hello",)),
        MissingObject(blob_key(TENANT, ZIPPED), "missing", ("hello",)),
        MissingObject(manifest_key(TENANT, preview.digest), "missing", ("one", "two")),
    }
    # Those of the preview and of the deployment before.
    assert (found.rollback_manifests, found.snapshots) == (2, 1)


def test_a_manifest_that_was_changed_is_damaged(world: World) -> None:
    site = manifest(PAGE)
    world.deploy("hello", site, is_active=True)
    key = manifest_key(TENANT, site.digest)
    world.store.put_bytes(key, b"{}")
    assert ObjectComparison(world.database, world.store).compare().missing == (
        MissingObject(key, "damaged", ("hello",)),
    )
