"""Routers that lack the files of sites which they have served, because the object store, or their disk, fails them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.errors import PlatformError
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import activation, discard
from shared.routing.log import RouteLog
from shared.storage.keys import blob_key
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.log_rows import eventually
from tests.support.router_fleet import LiveRouter, live_router, stored_artifact

pytestmark = pytest.mark.integration


class AbsentStore(MemoryArtifactStore):
    """An object store that can be away."""

    is_away = False

    def get_bytes(self, key: str) -> bytes:
        if self.is_away:
            raise PlatformError("The object store does not answer.")
        return super().get_bytes(key)


class TwoRouters:
    """`other` runs all the time, `late` between `start_late` and `stop_late`; both know each other."""

    def __init__(self, stack: ExitStack, folder: Path, database: Database, database_url: str, redis_url: str) -> None:
        self.store = AbsentStore()
        self.folder = folder
        self._database_url, self._redis_url = database_url, redis_url
        self._database = database
        self._redis = stack.enter_context(closing(connect_redis(redis_url)))
        self._other = stack.enter_context(ExitStack())
        self._late = stack.enter_context(ExitStack())
        self.other = self._start("other", self._other)
        self.start_late()

    def start_late(self) -> None:
        self.late = self._start("late", self._late)

    def stop_late(self) -> None:
        self._late.close()

    def stop_other(self) -> None:
        self._other.close()

    def release(self, deployment_id: str, *, former: str | None = None) -> None:
        """Activates a deployment whose page says its id, at once. Discards the `former` one."""
        artifact = stored_artifact(self.store, deployment_id, {"index.html": deployment_id.encode()})
        log = RouteLog(self._database)
        with self._database.transaction() as connection:
            log.prepare(connection, "demo", artifact, fetcher=None)
            changes = [activation("demo", deployment_id), *([] if former is None else [discard(former)])]
            log.append(connection, *changes)
        RouteBell(self._redis).ring()

    def _start(self, name: str, stack: ExitStack) -> LiveRouter:
        folder, database_url, redis_url = self.folder / name, self._database_url, self._redis_url
        return stack.enter_context(
            live_router(folder, name=name, database_url=database_url, redis_url=redis_url, store=self.store)
        )


@pytest.fixture
def routers(tmp_path: Path, database: Database, database_url: str, redis_url: str) -> Iterator[TwoRouters]:
    with ExitStack() as stack:
        routers = TwoRouters(stack, tmp_path, database, database_url, redis_url)
        routers.release("depl_1")
        eventually(lambda: serves(routers.other, "depl_1") and serves(routers.late, "depl_1"))
        eventually(lambda: all(knows(tmp_path / name, url) for name, url in (
            ("late", routers.other.internal_url), ("other", routers.late.internal_url)
        )))  # fmt: skip
        yield routers


def knows(folder: Path, url: str) -> bool:
    file = folder / "router-peers.json"
    return file.exists() and url in file.read_text()


def serves(router: LiveRouter, deployment_id: str) -> bool:
    answer = router.get("demo")
    return answer.status_code == 200 and answer.text == deployment_id


def is_ready(router: LiveRouter) -> bool:
    return router.internal("/ready").status_code == 200


def test_files_come_from_another_router_while_the_object_store_is_away(routers: TwoRouters):
    routers.stop_late()
    routers.release("depl_2")
    eventually(lambda: serves(routers.other, "depl_2"))
    routers.store.is_away = True
    routers.start_late()
    eventually(lambda: is_ready(routers.late))
    assert serves(routers.late, "depl_2")
    assert routers.late.internal("/position").json()["isComplete"]


def test_a_router_without_files_is_not_ready_while_another_one_has_all(routers: TwoRouters):
    routers.stop_late()
    # Discarded in the same step in which its successor is activated.
    routers.release("depl_2", former="depl_1")
    eventually(lambda: serves(routers.other, "depl_2"))
    routers.store.is_away = True
    shutil.rmtree(routers.folder / "other" / "cache")
    # Also as another process: the site's former files are no longer there by then.
    for _ in range(2):
        routers.stop_late()
        routers.start_late()
        eventually(lambda: "another router has them" in routers.late.internal("/ready").text)
    answer = routers.late.get("demo")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert not routers.late.internal("/position").json()["isComplete"]
    assert is_ready(routers.other)
    # It is better than none.
    routers.stop_other()
    eventually(lambda: is_ready(routers.late))
    routers.store.is_away = False
    eventually(lambda: serves(routers.late, "depl_2"))
    eventually(lambda: routers.late.internal("/position").json()["isComplete"])


def test_files_that_are_lost_keep_no_router_from_being_ready(routers: TwoRouters):
    routers.stop_late()
    routers.release("depl_2")
    eventually(lambda: serves(routers.other, "depl_2"))
    [lost] = [key for key, data in routers.store.objects.items() if data == b"depl_2"]
    assert lost.startswith("blobs/")
    del routers.store.objects[lost]
    routers.start_late()
    eventually(lambda: is_ready(routers.late))
    assert routers.late.get("demo").status_code == 503


def test_other_routers_get_a_file_by_its_digest_only(routers: TwoRouters):
    [key] = [key for key, data in routers.store.objects.items() if data == b"depl_1"]
    tenant_id, digest = key.split("/")[1:]
    assert key == blob_key(tenant_id, digest)
    assert routers.other.internal(f"/blobs/{tenant_id}/{digest}").content == b"depl_1"
    for path in (f"/blobs/{tenant_id}", f"/blobs/ten_other/{digest}", f"/blobs/{tenant_id}/../{digest}", "/blobs/"):
        assert routers.other.internal(path).status_code == 404, path
