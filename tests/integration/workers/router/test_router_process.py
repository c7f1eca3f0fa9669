"""The agent of a router as a process: killed and stopped in the middle of a fetch, and with a wrong clock."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from shared.db.database import Database
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import activation
from shared.routing.log import RouteLog
from shared.settings import ObjectStoreSettings
from shared.stack.caddy import CaddyServer
from shared.storage.object_store import S3ArtifactStore
from tests.support.log_rows import eventually
from tests.support.ports import free_ports
from tests.support.router_fleet import live_router, stored_artifact
from tests.support.worker_process import router_process, worker_environment

pytestmark = pytest.mark.integration

TENANT = "ten_tests"
# Enough that a fetch of them can be interrupted.
FILES = 150


class World:
    """A router's home and web server, and the stores."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        database: Database,
        database_url: str,
        redis_url: str,
        object_store: ObjectStoreSettings,
    ) -> None:
        self.folder, self.home = folder, folder / "home"
        self.database_url, self.redis_url = database_url, redis_url
        self.store = S3ArtifactStore(object_store)
        self._database = database
        self._redis = stack.enter_context(closing(connect_redis(redis_url)))
        web_port, internal_port = free_ports(2)
        self.internal_url = f"http://127.0.0.1:{internal_port}"
        self.environment = worker_environment(self.home, database_url, redis_url, object_store) | {
            "CLOUDIFY_ROUTER_URL": f"http://127.0.0.1:{web_port}",
            "CLOUDIFY_ROUTER_INTERNAL_PORT": str(internal_port),
        }
        self.sites = self.home / "sites"
        self.sites.mkdir(parents=True)
        self.caddy = CaddyServer(
            folder / "caddy", sites_directory=self.sites, port=web_port, agent=f"127.0.0.1:{internal_port}"
        )
        stack.callback(self.caddy.stop)
        self.caddy.start()
        self.caddy.wait(120)

    def release(self, deployment_id: str, files: dict[str, bytes]) -> None:
        artifact = stored_artifact(self.store, deployment_id, files, tenant_id=TENANT)
        log = RouteLog(self._database)
        with self._database.transaction() as connection:
            log.prepare(connection, "demo", artifact, fetcher=None)
            log.append(connection, activation("demo", deployment_id))
        RouteBell(self._redis).ring()

    def get(self, path: str = "/") -> httpx.Response:
        return httpx.get(self.caddy.url + path, headers={"Host": "demo.localhost"}, timeout=60, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.internal_url}/ready", timeout=60, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def unfinished(self) -> list[Path]:
        """What a fetch leaves in the site directory until it has ended."""
        return [path for path in (self.sites / ".deployments").iterdir() if "." in path.name]


@pytest.fixture
def world(
    tmp_path: Path,
    database: Database,
    database_url: str,
    redis_url: str,
    object_store_settings: ObjectStoreSettings,
) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path, database, database_url, redis_url, object_store_settings)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_router_that_ends_during_a_fetch_has_the_whole_site_afterwards(world: World, end: signal.Signals):
    world.release("depl_0", {"index.html": b"0"})
    log = world.folder / "router.log"
    interrupted = 0
    for number in (1, 2):
        with router_process(world.environment, log=log) as process:
            eventually(world.is_ready)
            assert world.get().text == f"{number - 1}"
            deployment_id = f"depl_{number}"
            files = {f"{name}.txt": b"%d of %d" % (name, number) for name in range(FILES)}
            first = sha256(files["0.txt"]).hexdigest()
            world.release(deployment_id, {"index.html": b"%d" % number, **files})
            place, cached = world.sites / ".deployments" / deployment_id, world.home / "cache" / "blobs" / TENANT
            eventually(lambda path=cached / first[:2] / first: path.exists())
            interrupted += not place.exists()
            process.send_signal(end)
            assert process.wait(120) == (0 if end is signal.SIGTERM else -end), log.read_text()
        # Whatever is there by now, no part of a site is served: all of it or nothing.
        answers = {world.get(f"/{name}.txt").status_code for name in (0, FILES - 1)}
        assert answers in ({200}, {404}, {502}, {503}), answers
    assert interrupted > 0
    with router_process(world.environment, log=log):
        eventually(world.is_ready)
        eventually(lambda: world.get().text == "2")
        with httpx.Client(base_url=world.caddy.url, headers={"Host": "demo.localhost"}, trust_env=False) as client:
            pages = [client.get(f"/{name}.txt", timeout=60).text for name in range(FILES)]
        assert pages == [f"{name} of 2" for name in range(FILES)]
        assert world.unfinished() == []


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_router_whose_clock_is_an_hour_off_serves_what_the_others_serve(world: World, seconds: int):
    """An object store refuses requests that are signed at another time. The other routers have the files."""
    clock, log = world.folder / "clock", world.folder / "router.log"
    clock.write_text(str(seconds))
    with (
        live_router(
            world.folder / "right",
            name="right",
            database_url=world.database_url,
            redis_url=world.redis_url,
            store=world.store,
        ) as right,
        router_process(world.environment, log=log, clock=clock),
    ):
        peers = world.home / "router-peers.json"
        eventually(lambda: peers.exists() and right.internal_url in peers.read_text())
        for number in range(3):
            world.release(f"depl_{number}", {"index.html": b"%d" % number})
            eventually(lambda number=number: right.get("demo").text == f"{number}")
            eventually(lambda number=number: world.get().text == f"{number}")
        eventually(world.is_ready)
        eventually(lambda: "3600 s" in log.read_text())
