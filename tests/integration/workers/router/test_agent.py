"""What a router does while others are away, or its disk is full."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from shared.db.database import Database
from shared.errors import Unavailable
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import NumberedChange, Position, SiteArtifact, Snapshot, activation
from shared.routing.log import RouteLog
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.router_fleet import LiveRouter, live_router, stored_artifact

pytestmark = pytest.mark.integration


class AbsentLog(RouteLog):
    """A log whose database can be away."""

    is_away = False

    def since(self, position: Position, *, limit: int = 1000) -> list[NumberedChange] | None:
        self._check()
        return super().since(position, limit=limit)

    def snapshot(self) -> Snapshot:
        self._check()
        return super().snapshot()

    def find_artifact(self, deployment_id: str) -> SiteArtifact | None:
        self._check()
        return super().find_artifact(deployment_id)

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("The database does not answer.")


class World:
    def __init__(self, stack: ExitStack, folder: Path, database: Database, database_url: str, redis_url: str) -> None:
        self.log = AbsentLog(database)
        self.database = database
        self.store = MemoryArtifactStore()
        self.redis = stack.enter_context(closing(connect_redis(redis_url)))
        self._stack = stack
        self._folder = folder
        self.urls = {"database_url": database_url, "redis_url": redis_url}

    def router(self, name: str, *, is_absent: bool = False, maximum_bytes: int = 1 << 30) -> LiveRouter:
        router = self._stack.enter_context(
            live_router(
                self._folder / name,
                name=name,
                store=self.store,
                maximum_bytes=maximum_bytes,
                log_of=(lambda _database: self.log) if is_absent else RouteLog,
                **self.urls,
            )
        )
        if not self.log.is_away:
            router.wait_until_ready()
        return router

    def release(self, host: str, deployment_id: str, content: bytes, tenant_id: str = "ten_tests") -> None:
        artifact = stored_artifact(self.store, deployment_id, {"index.html": content}, tenant_id=tenant_id)
        log = RouteLog(self.database)
        with self.database.transaction() as connection:
            log.prepare(connection, host, artifact, fetcher=None)
            log.append(connection, activation(host, deployment_id))
        RouteBell(self.redis).ring()


@pytest.fixture
def world(tmp_path: Path, database: Database, database_url: str, redis_url: str) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path, database, database_url, redis_url)


def eventually(condition: object) -> None:
    assert callable(condition)
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it hasn't happened within a minute")


def test_a_router_without_a_database_serves_what_it_has_and_is_ready_until_it_knows_of_something_newer(world: World):
    router = world.router("absent", is_absent=True)
    world.release("demo", "depl_1", b"one")
    eventually(lambda: router.get("demo").text == "one")
    world.log.is_away = True
    eventually(lambda: router.agent.is_offline)
    assert router.internal("/ready").status_code == 200
    assert router.get("demo").text == "one"
    # Another router tells Redis of a newer change.
    world.router("other")
    world.release("demo", "depl_2", b"two")
    eventually(lambda: router.internal("/ready").status_code == 503)
    assert "newer releases" in router.internal("/ready").text
    assert router.get("demo").text == "one"
    world.log.is_away = False
    eventually(lambda: router.internal("/ready").status_code == 200)
    assert router.get("demo").text == "two"


def test_a_router_asks_its_peers_when_redis_knows_nothing(world: World):
    other = world.router("other")
    router = world.router("absent", is_absent=True)
    eventually(lambda: router.internal("/position").json() == other.internal("/position").json())
    world.log.is_away = True
    world.release("demo", "depl_1", b"one")
    eventually(lambda: other.get("demo").text == "one")
    world.redis.flushall()
    eventually(lambda: router.internal("/ready").status_code == 503)


def test_a_start_without_a_database_serves_the_disk(world: World, tmp_path: Path):
    with ExitStack() as stack:
        first = World(stack, tmp_path, world.database, *_urls(world))
        router = first.router("absent", is_absent=True)
        first.release("demo", "depl_1", b"one")
        eventually(lambda: router.get("demo").text == "one")
    world.log.is_away = True
    again = world.router("absent", is_absent=True)
    eventually(lambda: again.internal("/ready").status_code == 200)
    assert again.get("demo").text == "one"
    assert again.get("other").status_code == 404


def test_the_least_recently_used_site_leaves_a_full_disk_and_comes_back(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.router.fetcher._MINIMUM_AGE_SECONDS", -1.0)
    router = world.router("small", maximum_bytes=2500)
    for name in ("a", "b"):
        world.release(name, f"depl_{name}", name.encode() * 1000)
        eventually(lambda name=name: router.get(name).text == name * 1000)
    router.directory.take_last_uses()
    assert router.get("a").status_code == 200
    if "depl_a" not in router.directory.take_last_uses():
        pytest.skip("the filesystem keeps no access times")
    assert router.get("a").status_code == 200
    world.release("c", "depl_c", b"c" * 1000)
    eventually(lambda: router.get("c").text == "c" * 1000)
    eventually(lambda: sorted(router.directory.deployments()) == ["depl_a", "depl_c"])
    assert router.get("b").text == "b" * 1000
    assert len(router.directory.deployments()) == 2


def test_a_tenant_with_slow_fetches_holds_up_nobody_else(world: World):
    slow = SlowStore(world.store)
    world.store = slow
    router = world.router("shared")
    try:
        for number in range(20):
            world.release(f"slow-{number}", f"depl_slow{number}", b"slow %d" % number, tenant_id="ten_slow")
        world.release("quick", "depl_quick", b"quick", tenant_id="ten_quick")
        eventually(lambda: router.get("quick").text == "quick")
        assert "depl_slow0" not in router.directory.deployments()
    finally:
        slow.released.set()
    eventually(lambda: len(router.directory.deployments()) == 21)


def test_what_was_discarded_while_it_was_fetched_is_deleted(world: World):
    from shared.routing.changes import discard

    slow = SlowStore(world.store)
    world.store = slow
    router = world.router("one")
    artifact = stored_artifact(world.store, "depl_1", {"index.html": b"one"}, tenant_id="ten_slow")
    with world.database.transaction() as connection:
        world.log.prepare(connection, "demo", artifact, fetcher=None)
    eventually(lambda: slow.asked)
    with world.database.transaction() as connection:
        number = world.log.append(connection, discard("depl_1"))
    eventually(lambda: router.internal("/position").json()["number"] == number)
    slow.released.set()
    world.release("other", "depl_2", b"two")
    eventually(lambda: router.directory.deployments() == ["depl_2"])


def test_a_visitor_who_waits_for_files_gets_what_was_activated_meanwhile(world: World):
    slow = SlowStore(world.store)
    world.store = slow
    router = world.router("one")
    world.release("demo", "depl_1", b"one", tenant_id="ten_slow")
    eventually(lambda: router.directory.current("demo") == "depl_1")
    with ThreadPoolExecutor(1) as visitors:
        visit = visitors.submit(router.get, "demo")
        eventually(lambda: slow.asked)
        artifact = stored_artifact(world.store, "depl_2", {"index.html": b"two"})
        with world.database.transaction() as connection:
            # Its preparation is still to come: this router has no files of it.
            connection.execute(
                "INSERT INTO route_artifacts (deployment_id, tenant_id, manifest_digest, is_preview) "
                "VALUES (%(deployment_id)s, %(tenant_id)s, %(manifest_digest)s, %(is_preview)s)",
                msgspec.structs.asdict(artifact),
            )
            world.log.append(connection, activation("demo", "depl_2"))
        eventually(lambda: router.directory.current("demo") == "depl_2")
        slow.released.set()
        answer = visit.result(60)
    assert (answer.status_code, answer.text) == (200, "two")


class SlowStore(MemoryArtifactStore):
    """What belongs to `ten_slow` isn't read before `released`."""

    def __init__(self, store: MemoryArtifactStore) -> None:
        super().__init__()
        self.objects = store.objects
        self.released = threading.Event()
        self.asked = 0

    def get_bytes(self, key: str) -> bytes:
        if "ten_slow" in key:
            self.asked += 1
            self.released.wait(60)
        return super().get_bytes(key)


def _urls(world: World) -> tuple[str, str]:
    return world.urls["database_url"], world.urls["redis_url"]
