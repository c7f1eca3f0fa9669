"""A site's pods fetch their artifact from the API and the object store: what their token is good for, and how long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import LiteralString

import msgspec
import pytest

from schemas.artifacts import ArtifactLinks
from shared.db.database import Database
from shared.errors import NotFound, PlatformError
from shared.releases.artifact_access import ArtifactAccessService, artifact_token
from shared.releases.site_pod_repository import SitePodRepository
from shared.routing.changes import SiteArtifact
from shared.settings import ObjectStoreSettings
from shared.storage.keys import blob_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.router_fleet import stored_artifact
from workers.artifacts.reader import ArtifactMissing
from workers.router.pod import NotAllowed, fetch
from workers.router.site_directory import SiteDirectory
from workers.site_pods.pod_request import PodRequest

pytestmark = pytest.mark.integration

KEY = b"k" * 32


@dataclass
class World:
    database: Database
    store: S3ArtifactStore
    access: ArtifactAccessService

    def deployment(self, deployment_id: str, files: dict[str, bytes], *, runtime: str = "pods") -> SiteArtifact:
        artifact = stored_artifact(self.store, deployment_id, files)
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO deployments (id, tenant_id, project_id, repository_url, branch, settings, status, "
                "release_sequence, host, manifest_digest, site_state, finished_at) VALUES (%(id)s, 'ten_tests', "
                "'proj_tests', 'https://git.example.org/x', 'main', jsonb_build_object('runtime', %(runtime)s::text), "
                "'ready', 1, 'demo', %(digest)s, 'published', now())",
                {"id": deployment_id, "runtime": runtime, "digest": artifact.manifest_digest},
            )
        return artifact

    def change(self, assignment: LiteralString, table: LiteralString) -> None:
        with self.database.transaction() as connection:
            connection.execute(f"UPDATE {table} SET {assignment}")


@pytest.fixture
def world(database: Database, object_store_settings: ObjectStoreSettings) -> World:
    store = S3ArtifactStore(object_store_settings)
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (id, name) VALUES ('ten_tests', 'tests')")
        connection.execute(
            "INSERT INTO projects (id, tenant_id, name, slug) VALUES ('proj_tests', 'ten_tests', 'Demo', 'demo')"
        )
    sites = SitePodRepository(database)
    return World(database, store, ArtifactAccessService(sites=sites, store=store, secret_key=KEY))


@contextlib.contextmanager
def endpoint(access: ArtifactAccessService) -> Generator[str]:
    """The API's route without the API around it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            *_, deployment_id, after = self.path.split("/")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            try:
                found: ArtifactLinks | None = access.links(deployment_id, token, after=int(after))
            except NotFound:
                found = None
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(msgspec.json.encode({"ok": True, "data": found}))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def bring(world: World, artifact: SiteArtifact, directory: Path, *, token: str | None = None) -> Path:
    with endpoint(world.access) as url:
        request = PodRequest(artifact, url, token or artifact_token(KEY, artifact))
        fetch(request, directory, patience_seconds=0)
    return directory / "sites" / ".deployments" / artifact.deployment_id / "files"


def test_a_pod_gets_its_site_whole_and_verified(world: World, tmp_path: Path) -> None:
    # More files than a page of links has.
    files = {f"{number}/page.html": str(number).encode() for number in range(1001)}
    artifact = world.deployment("depl_1", files)
    placed = bring(world, artifact, tmp_path)
    assert {path.relative_to(placed).as_posix(): path.read_bytes() for path in placed.rglob("*.html")} == files
    # The container was started again.
    assert bring(world, artifact, tmp_path) == placed
    assert SiteDirectory(tmp_path / "sites").deployments() == ["depl_1"]


def test_a_damaged_or_lost_file_is_never_served(world: World, tmp_path: Path) -> None:
    artifact = world.deployment("depl_1", {"index.html": b"one"})
    [key] = list(world.store.list("blobs/"))
    world.store.put_bytes(key, b"evil")
    with pytest.raises(ArtifactMissing, match="damaged"):
        bring(world, artifact, tmp_path)
    world.store.delete(key)
    with pytest.raises(ArtifactMissing, match="not in the object store"):
        bring(world, artifact, tmp_path)
    assert SiteDirectory(tmp_path / "sites").deployments() == []


def test_a_token_is_good_for_one_artifact_alone(world: World, tmp_path: Path) -> None:
    artifact, other = world.deployment("depl_1", {"a": b"a"}), world.deployment("depl_2", {"b": b"b"})
    token = artifact_token(KEY, artifact)
    wrong = ["", "x", "é", artifact_token(b"other" * 8, artifact), artifact_token(KEY, other)]
    # Of the same deployment's earlier artifact.
    wrong.append(artifact_token(KEY, msgspec.structs.replace(artifact, manifest_digest=other.manifest_digest)))
    for each in wrong:
        with pytest.raises(NotFound):
            world.access.links("depl_1", each, after=0)
    with pytest.raises(NotFound):
        world.access.links("depl_2", token, after=0)
    links = world.access.links("depl_1", token, after=0)
    assert len(links.blobs) == 1
    assert blob_key("ten_tests", next(iter(links.blobs))) in next(iter(links.blobs.values()))
    with pytest.raises(NotAllowed):
        bring(world, artifact, tmp_path, token="wrong")


@pytest.mark.parametrize(
    ("table", "assignment"),
    [
        ("deployments", "deleting_at = now()"),
        ("deployments", "site_state = 'removing'"),
        ("deployments", "settings = '{}'"),
        ("projects", "deleting_at = now()"),
    ],
)
def test_a_token_ends_with_its_deployment(world: World, table: LiteralString, assignment: LiteralString) -> None:
    artifact = world.deployment("depl_1", {"a": b"a"})
    token = artifact_token(KEY, artifact)
    assert world.access.links("depl_1", token, after=0).next is None
    world.change(assignment, table)
    with pytest.raises(NotFound):
        world.access.links("depl_1", token, after=0)


def test_a_store_that_is_away_is_a_failure_to_try_again(world: World, tmp_path: Path) -> None:
    artifact = world.deployment("depl_1", {"a": b"a"})
    request = PodRequest(artifact, "http://127.0.0.1:9", artifact_token(KEY, artifact))
    with pytest.raises(PlatformError, match="can't be fetched"):
        fetch(request, tmp_path, patience_seconds=0)
