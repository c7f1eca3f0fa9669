"""The contract of publishers, on a fleet of one and of three routers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.errors import Cancelled, PlatformError
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import RouteChange, activation, discard, removal
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.storage.keys import blob_key
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.router_fleet import LiveRouter, live_router, stored_artifact
from workers.artifacts.reader import ArtifactMissing
from workers.publishers.router_fleet import RouterFleetPublisher

pytestmark = pytest.mark.integration


def never() -> bool:
    return False


@dataclass
class Fleet:
    publisher: RouterFleetPublisher
    database: Database
    store: MemoryArtifactStore
    routers: list[LiveRouter]

    def prepare(self, deployment_id: str, files: dict[str, bytes], host: str = "demo") -> None:
        self.publisher.prepare(host, stored_artifact(self.store, deployment_id, files), is_stopped=never)

    def change(self, *changes: RouteChange) -> None:
        with self.database.transaction() as connection:
            number = self.publisher.change_routes(connection, *changes)
        self.publisher.confirm(number)

    def answers(self, host: str, path: str = "/") -> set[tuple[int, str]]:
        return {(answer.status_code, answer.text) for answer in (router.get(host, path) for router in self.routers)}


def open_fleet(stack: ExitStack, folder: Path, database_url: str, redis_url: str, count: int) -> Fleet:
    store = MemoryArtifactStore()
    database = stack.enter_context(closing(Database(database_url)))
    redis = stack.enter_context(closing(connect_redis(redis_url)))
    routers = [
        stack.enter_context(
            live_router(
                folder / f"router-{number}",
                name=f"router-{number}",
                database_url=database_url,
                redis_url=redis_url,
                store=store,
            )
        )
        for number in range(count)
    ]
    repository = RouterRepository(database)
    while len(repository.all()) < count:
        threading.Event().wait(0.01)
    publisher = RouterFleetPublisher(RouteLog(database), repository, RouteBell(redis), database)
    return Fleet(publisher, database, store, routers)


@pytest.fixture(params=[1, 3], ids=["one router", "three routers"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield open_fleet(stack, tmp_path, database_url, redis_url, request.param)


@pytest.fixture
def three_routers(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield open_fleet(stack, tmp_path, database_url, redis_url, 3)


@pytest.fixture
def one_router(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield open_fleet(stack, tmp_path, database_url, redis_url, 1)


def test_prepared_files_are_seen_by_nobody_until_they_are_activated(fleet: Fleet):
    fleet.prepare("depl_1", {"index.html": b"one", "a/b.html": b"two"})
    assert fleet.answers("demo") == {(404, "There is no site here.\n")}
    fleet.change(activation("demo", "depl_1"))
    assert fleet.answers("demo") == {(200, "one")}
    assert fleet.answers("demo", "/a/b") == {(200, "two")}
    # Nothing is left of the look at the files.
    assert all(router.directory.routes() == {"demo": "depl_1"} for router in fleet.routers)


def test_an_activation_is_confirmed_when_every_router_serves_it(fleet: Fleet):
    for number in range(8):
        fleet.prepare(f"depl_{number}", {"index.html": str(number).encode()})
        fleet.change(activation("demo", f"depl_{number}"))
        assert fleet.answers("demo") == {(200, str(number))}
    fleet.change(activation("demo", "depl_2"))
    assert fleet.answers("demo") == {(200, "2")}


def test_everything_may_be_repeated(fleet: Fleet):
    for _ in range(2):
        fleet.prepare("depl_1", {"index.html": b"one"})
        fleet.change(activation("demo", "depl_1"))
        assert fleet.answers("demo") == {(200, "one")}
    for _ in range(2):
        fleet.change(removal("demo"), discard("depl_1"))
        assert fleet.answers("demo") == {(404, "There is no site here.\n")}
    assert all(router.directory.deployments() == [] for router in fleet.routers)


def test_a_lost_blob_is_told_and_changes_nothing(fleet: Fleet):
    fleet.prepare("depl_1", {"index.html": b"one"})
    fleet.change(activation("demo", "depl_1"))
    artifact = stored_artifact(fleet.store, "depl_2", {"index.html": b"two", "lost.html": b"lost"})
    for key in [key for key, data in fleet.store.objects.items() if data == b"lost"]:
        del fleet.store.objects[key]
    with pytest.raises(ArtifactMissing, match="not in the object store"):
        fleet.publisher.prepare("demo", artifact, is_stopped=never)
    assert fleet.answers("demo") == {(200, "one")}
    # A router has no right to change the store.
    assert fleet.store.exists(blob_key("ten_tests", _digest(b"two")))


def test_a_failed_preparation_leaves_nothing_that_counts_as_one(one_router: Fleet):
    """The web server is away during the first attempt: its files are there, but nobody has seen them served."""
    [router] = one_router.routers
    router.caddy.stop()
    with pytest.raises(PlatformError, match="doesn't answer"):
        one_router.prepare("depl_1", {"index.html": b"one"})
    with pytest.raises(PlatformError, match="doesn't answer"):
        one_router.prepare("depl_1", {"index.html": b"one"})
    router.caddy.start()
    router.caddy.wait(120)
    one_router.prepare("depl_1", {"index.html": b"one"})
    one_router.change(activation("demo", "depl_1"))
    assert one_router.answers("demo") == {(200, "one")}


def test_without_any_router_nothing_is_confirmed(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.publishers.router_fleet._NO_ROUTER_SECONDS", 0.1)
    monkeypatch.setattr("workers.publishers.router_fleet.LIVE_SECONDS", -1)
    with closing(connect_redis(redis_url)) as redis:
        publisher = RouterFleetPublisher(RouteLog(database), RouterRepository(database), RouteBell(redis), database)
        artifact = stored_artifact(MemoryArtifactStore(), "depl_1", {})
        with pytest.raises(PlatformError, match="start one with `cloudify router`"):
            publisher.prepare("demo", artifact, is_stopped=never)
        with pytest.raises(Cancelled):
            publisher.prepare("demo", artifact, is_stopped=lambda: True)
        with database.transaction() as connection:
            number = publisher.change_routes(connection, activation("demo", "depl_1"))
        with pytest.raises(PlatformError, match="No site router has applied"):
            publisher.confirm(number)


def test_a_router_that_starts_again_serves_what_the_log_says(three_routers: Fleet, database_url: str, redis_url: str):
    """It was away while sites appeared, changed and disappeared, and its disk has a site that it shouldn't have."""
    fleet = three_routers
    for name in ("kept", "changed", "removed"):
        fleet.prepare(f"depl_{name}", {"index.html": name.encode()}, host=name)
        fleet.change(activation(name, f"depl_{name}"))
    leaving = fleet.routers.pop()
    for part in (leaving.agent, leaving.fetcher, leaving.caddy):
        part.stop()
    fleet.prepare("depl_new", {"index.html": b"new"}, host="new")
    fleet.prepare("depl_other", {"index.html": b"other"}, host="changed")
    fleet.change(activation("new", "depl_new"), activation("changed", "depl_other"))
    fleet.change(removal("removed"), discard("depl_removed"), discard("depl_changed"))
    leaving.directory.route("stranger", "depl_removed")
    with live_router(
        leaving.caddy.directory.parent, name=leaving.name, database_url=database_url, redis_url=redis_url,
        store=fleet.store,
    ) as router:  # fmt: skip
        while router.internal("/ready").status_code != 200:
            threading.Event().wait(0.01)
        assert router.directory.routes() == {"kept": "depl_kept", "changed": "depl_other", "new": "depl_new"}
        # What replaces files that were here is fetched before the router is ready.
        assert set(router.directory.deployments()) == {"depl_kept", "depl_other"}
        for name, text in (("kept", "kept"), ("changed", "other"), ("new", "new")):
            answer = router.get(name)
            assert (answer.status_code, answer.text) == (200, text)
        assert router.get("removed").status_code == router.get("stranger").status_code == 404


def test_a_first_request_waits_for_the_files_which_are_fetched_once(
    one_router: Fleet, tmp_path: Path, database_url: str, redis_url: str
):
    fleet = one_router
    fleet.prepare("depl_1", {"index.html": b"one", "deep/page.html": b"page"})
    fleet.change(activation("demo", "depl_1"))
    reads: list[str] = []
    store = CountingStore(fleet.store, reads)
    with live_router(
        tmp_path / "empty", name="empty", database_url=database_url, redis_url=redis_url, store=store
    ) as router:
        while router.internal("/ready").status_code != 200:
            threading.Event().wait(0.01)
        assert router.directory.deployments() == []
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            answer = router.get("demo", "/deep/page")
            answers.append((answer.status_code, answer.text))

        visitors = [threading.Thread(target=ask) for _ in range(8)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        assert answers == [(200, "page")] * 8
        assert len(reads) == len(set(reads)) == 3  # the manifest and two files


def test_a_store_that_is_away_is_no_wrong_page(one_router: Fleet, tmp_path: Path, database_url: str, redis_url: str):
    fleet = one_router
    fleet.prepare("depl_1", {"index.html": b"one"})
    fleet.change(activation("demo", "depl_1"))
    store = CountingStore(fleet.store, [])
    store.is_away = True
    # The other router would have the files.
    shutil.rmtree(fleet.routers[0].caddy.directory.parent / "cache")
    with live_router(
        tmp_path / "empty", name="empty", database_url=database_url, redis_url=redis_url, store=store
    ) as router:
        while router.internal("/ready").status_code != 200:
            threading.Event().wait(0.01)
        answer = router.get("demo")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        store.is_away = False
        while (answer := router.get("demo")).status_code == 503:
            threading.Event().wait(0.1)
        assert (answer.status_code, answer.text) == (200, "one")


class CountingStore(MemoryArtifactStore):
    """Another router's view of the same objects."""

    def __init__(self, store: MemoryArtifactStore, reads: list[str]) -> None:
        super().__init__()
        self.objects = store.objects
        self.is_away = False
        self._reads = reads

    def get_bytes(self, key: str) -> bytes:
        if self.is_away:
            raise PlatformError("The object store does not answer.")
        self._reads.append(key)
        return super().get_bytes(key)


def _digest(content: bytes) -> str:
    from hashlib import sha256

    return sha256(content).hexdigest()
