"""Routes to sites with pods of their own: where requests go, what clients can't choose, and pods that don't answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

from shared.db.database import Database
from shared.errors import PlatformError
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import RouteChange, SiteArtifact, activation, discard, removal
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.ports import free_ports
from tests.support.router_fleet import LiveRouter, live_router, stored_artifact
from tests.support.site_pod import site_pod
from workers.artifacts.reader import ArtifactReader
from workers.publishers.router_fleet import RouterFleetPublisher
from workers.router.site_directory import SiteDirectory

pytestmark = pytest.mark.integration


@dataclass
class World:
    folder: Path
    database: Database
    store: MemoryArtifactStore
    publisher: RouterFleetPublisher
    router: LiveRouter
    stack: ExitStack

    def pod(self, deployment_id: str, content: bytes, *, port: int | None = None) -> SiteArtifact:
        """A pod that serves the deployment, as the init container has placed it."""
        artifact = stored_artifact(self.store, deployment_id, {"index.html": content, "deep/page.html": content})
        folder = self.folder / deployment_id
        reader = ArtifactReader(self.store, folder / "cache", may_repair=False)
        manifest = reader.manifest(artifact.tenant_id, artifact.manifest_digest)
        blobs = reader.blobs(artifact.tenant_id, manifest)
        SiteDirectory(folder / "sites").place(deployment_id, manifest, blobs, is_preview=False)
        address = self.stack.enter_context(site_pod(folder, deployment_id, port=port))
        return msgspec.structs.replace(artifact, pods_address=address)

    def release(self, artifact: SiteArtifact, host: str = "demo") -> None:
        self.publisher.prepare(host, artifact, is_stopped=lambda: False)
        self.change(activation(host, artifact.deployment_id))

    def change(self, *changes: RouteChange) -> None:
        with self.database.transaction() as connection:
            number = self.publisher.change_routes(connection, *changes)
        self.publisher.confirm(number)

    def get(self, host: str, path: str = "/", **headers: str) -> httpx.Response:
        named = {"Host": f"{host}.localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.get(self.router.caddy.url + path, headers=named)


@pytest.fixture
def world(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[World]:
    with ExitStack() as stack:
        database = stack.enter_context(closing(Database(database_url)))
        redis = stack.enter_context(closing(connect_redis(redis_url)))
        store = MemoryArtifactStore()
        router = stack.enter_context(
            live_router(tmp_path / "router", name="router", database_url=database_url, redis_url=redis_url, store=store)
        )
        router.wait_until_ready()
        publisher = RouterFleetPublisher(RouteLog(database), RouterRepository(database), RouteBell(redis), database)
        yield World(tmp_path, database, store, publisher, router, stack)


def test_a_site_moves_between_pods_and_files(world: World) -> None:
    world.release(world.pod("depl_1", b"one"))
    answer = world.get("demo", "/deep/page")
    assert (answer.status_code, answer.text) == (200, "one")
    assert "via" not in answer.headers
    assert not world.router.directory.has_files("depl_1")
    second = world.pod("depl_2", b"two")
    world.release(second)
    assert world.get("demo").text == "two"
    world.release(stored_artifact(world.store, "depl_3", {"index.html": b"three"}))
    assert world.get("demo").text == "three"
    world.change(activation("demo", "depl_1"))
    assert world.get("demo").text == "one"
    world.change(removal("demo"), discard("depl_1"), discard("depl_2"), discard("depl_3"))
    assert world.get("demo").status_code == 404
    assert world.router.directory.deployments() == []


def test_one_connection_sees_the_switch_at_once(world: World) -> None:
    """Connections to the former pods are kept, and nothing more goes through them."""
    world.release(world.pod("depl_1", b"one"))
    headers = {"Host": "demo.localhost"}
    with httpx.Client(base_url=world.router.caddy.url, trust_env=False, headers=headers) as client:
        assert client.get("/").text == "one"
        world.release(world.pod("depl_2", b"two"))
        assert {client.get("/").text for _ in range(20)} == {"two"}
        world.change(activation("demo", "depl_1"))
        assert {client.get("/").text for _ in range(20)} == {"one"}


def test_a_client_chooses_no_upstream(world: World) -> None:
    world.release(world.pod("depl_1", b"one"))
    other = world.pod("depl_other", b"another tenant's")
    spoofed = {
        "X_Cloudify_Pods": str(other.pods_address),
        "X_Cloudify_Deployment": "depl_other",
        "X_Forwarded_Host": "other.localhost",
        "Forwarded": "host=other.localhost",
        "Connection": "X-Cloudify-Deployment",
    }
    answer = world.get("demo", **spoofed)
    assert (answer.status_code, answer.text) == (200, "one")
    # Neither of a site whose files are fetched while the visitor waits.
    world.release(stored_artifact(world.store, "depl_files", {"index.html": b"files"}), host="files")
    world.router.fetcher.delete("depl_files")
    assert world.get("files", **spoofed).text == "files"


def test_an_address_that_another_site_has_now_is_no_wrong_page(world: World) -> None:
    """The cluster gave the address of a Service that was deleted to another one."""
    other = world.pod("depl_other", b"another tenant's")
    artifact = world.pod("depl_1", b"one")
    world.release(artifact)
    world.router.directory.place_address("depl_1", str(other.pods_address))
    answer = world.get("demo")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    with closing(socket.create_connection(("127.0.0.1", int(str(other.pods_address).split(":")[1])))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).split()[1] == b"421"


def test_pods_that_are_down_are_their_sites_trouble_alone(world: World) -> None:
    [port] = free_ports(1)
    artifact = stored_artifact(world.store, "depl_1", {"index.html": b"one"})
    down = msgspec.structs.replace(artifact, pods_address=f"127.0.0.1:{port}")
    with pytest.raises(PlatformError, match="No site router could fetch"):
        world.publisher.prepare("demo", down, is_stopped=lambda: False)
    # A repair may route to them all the same.
    world.change(activation("demo", "depl_1"))
    answer = world.get("demo")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    world.release(stored_artifact(world.store, "depl_2", {"index.html": b"two"}), host="neighbour")
    assert world.router.internal("/ready").status_code == 200
    assert world.get("neighbour").text == "two"
    world.pod("depl_1", b"one", port=port)
    assert world.get("demo").text == "one"


def test_a_router_that_starts_again_knows_the_addresses(world: World, database_url: str, redis_url: str) -> None:
    """Its disk says another address, and an address of a deployment that has files."""
    world.release(world.pod("depl_1", b"one"))
    world.release(stored_artifact(world.store, "depl_2", {"index.html": b"two"}), host="files")
    for part in (world.router.agent, world.router.fetcher, world.router.caddy):
        part.stop()
    world.router.directory.place_address("depl_1", "127.0.0.1:9")
    world.router.directory.place_address("depl_2", "127.0.0.1:9")
    world.router.directory.place_address("depl_gone", "127.0.0.1:9")
    with live_router(
        world.folder / "router", name="router", database_url=database_url, redis_url=redis_url, store=world.store
    ) as router:
        router.wait_until_ready()
        assert (router.get("demo").text, router.get("files").text) == ("one", "two")
        assert set(router.directory.deployments()) == {"depl_1", "depl_2"}


def test_a_router_that_has_never_seen_the_site_asks_for_its_pods(
    world: World, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    world.release(world.pod("depl_1", b"one"))
    with live_router(
        tmp_path / "empty", name="empty", database_url=database_url, redis_url=redis_url, store=world.store
    ) as router:
        router.wait_until_ready()
        answers: list[str] = []
        visitors = [threading.Thread(target=lambda: answers.append(router.get("demo").text)) for _ in range(8)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        assert answers == ["one"] * 8


def test_a_version_that_knows_of_no_pods_serves_the_files(world: World) -> None:
    """It reads the columns that it knows."""
    artifact = world.pod("depl_1", b"one")
    world.release(artifact)
    row = world.database.fetch_one(
        _FormerArtifact, "SELECT deployment_id, tenant_id, manifest_digest, is_preview FROM route_artifacts"
    )
    assert row is not None
    world.router.directory.delete("depl_1")
    world.router.fetcher.fetch(SiteArtifact(**msgspec.structs.asdict(row))).result(60)
    assert world.router.directory.has_files("depl_1")
    assert world.get("demo").text == "one"


class _FormerArtifact(msgspec.Struct, frozen=True):
    deployment_id: str
    tenant_id: str
    manifest_digest: str
    is_preview: bool


@pytest.mark.parametrize("address", ["example.com:80", "10.0.0.1", "10.0.0.1:80/path", "unix//run/x.sock", ""])
def test_only_an_ip_and_port_is_an_address(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        SiteDirectory(tmp_path).place_address("depl_1", address)
