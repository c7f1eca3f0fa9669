"""A router whose disk takes no more."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.errors import PlatformError
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import activation
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.log_rows import eventually
from tests.support.router_fleet import LiveRouter, live_router, stored_artifact
from workers.publishers.router_fleet import RouterFleetPublisher

pytestmark = pytest.mark.integration


class SmallDisk:
    """A file system of a few megabytes."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True, text=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"needs a file system of its own: {mounted.stderr.strip()}")
        stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        self.folder = folder
        self._filling = folder / "filling"

    def fill(self) -> None:
        with self._filling.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._filling.unlink()


class World:
    def __init__(self, stack: ExitStack, folder: Path, database: Database, database_url: str, redis_url: str) -> None:
        self._stack, self._folder, self._database = stack, folder, database
        self._database_url, self._redis_url = database_url, redis_url
        self._store = MemoryArtifactStore()
        redis = stack.enter_context(closing(connect_redis(redis_url)))
        routers = RouterRepository(database)
        self._publisher = RouterFleetPublisher(RouteLog(database), routers, RouteBell(redis), database)
        self.disk = SmallDisk(stack, folder / "disk")
        self.router = self.start("small", self.disk.folder / "router")

    def start(self, name: str, folder: Path | None = None) -> LiveRouter:
        router = self._stack.enter_context(
            live_router(
                folder or self._folder / name,
                name=name,
                database_url=self._database_url,
                redis_url=self._redis_url,
                store=self._store,
            )
        )
        router.wait_until_ready()
        return router

    def publish(self, deployment_id: str) -> None:
        """As the deploy stage does. The page says the id, many times."""
        artifact = stored_artifact(self._store, deployment_id, {"index.html": deployment_id.encode() * 10_000})
        self._publisher.prepare("demo", artifact, is_stopped=lambda: False)
        with self._database.transaction() as connection:
            number = self._publisher.change_routes(connection, activation("demo", deployment_id))
        self._publisher.confirm(number)


@pytest.fixture
def world(tmp_path: Path, database: Database, database_url: str, redis_url: str) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path, database, database_url, redis_url)


def serves(router: LiveRouter, deployment_id: str) -> bool:
    answer = router.get("demo")
    return answer.status_code == 200 and answer.text == deployment_id * 10_000


def is_ready(router: LiveRouter) -> bool:
    return router.internal("/ready").status_code == 200


def test_nothing_is_released_and_the_former_site_stays_if_no_router_has_room(world: World):
    world.publish("depl_1")
    world.disk.fill()
    with pytest.raises(PlatformError, match="No space left"):
        world.publish("depl_2")
    assert serves(world.router, "depl_1")
    assert is_ready(world.router)
    world.disk.free()
    world.publish("depl_2")
    assert serves(world.router, "depl_2")


def test_a_full_router_is_not_ready_while_another_one_serves_the_site(world: World):
    other = world.start("other")
    world.publish("depl_1")
    assert serves(world.router, "depl_1")
    # Otherwise it knows of no router that could be better.
    known = world.disk.folder / "router" / "router-peers.json"
    eventually(lambda: known.exists() and other.internal_url in known.read_text())
    world.disk.fill()
    world.publish("depl_2")
    assert serves(other, "depl_2")
    assert is_ready(other)
    eventually(lambda: not is_ready(world.router))
    answer = world.router.get("demo")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    world.disk.free()
    eventually(lambda: is_ready(world.router))
    assert serves(world.router, "depl_2")
