"""A site router whose PostgreSQL is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.db.database import Database
from shared.routing.changes import activation
from shared.routing.log import RouteLog
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.freezing_relay import FreezingRelay
from tests.support.log_rows import eventually
from tests.support.router_fleet import LiveRouter, live_router, stored_artifact

pytestmark = pytest.mark.integration

# Nobody listens there.
_NO_REDIS = "redis://127.0.0.1:9/0"


class TwoRouters:
    """`away` reaches PostgreSQL through `relay`; `other` always does."""

    def __init__(self, stack: ExitStack, folder: Path, database_url: str, redis_url: str) -> None:
        port = urlsplit(database_url).port
        assert port is not None
        self.relay = stack.enter_context(closing(FreezingRelay(port)))
        self._relayed_url = database_url.replace(f":{port}/", f":{self.relay.port}/")
        self._folder, self._redis_url = folder, redis_url
        self._database = stack.enter_context(closing(Database(database_url)))
        self._store = MemoryArtifactStore()
        self._log = RouteLog(self._database)
        self.other = stack.enter_context(self._router("other", database_url))
        self._life = stack.enter_context(ExitStack())
        self.away = self._life.enter_context(self._router("away", self._relayed_url))

    def _router(self, name: str, database_url: str) -> AbstractContextManager[LiveRouter]:
        return live_router(
            self._folder / name, name=name, database_url=database_url, redis_url=self._redis_url, store=self._store
        )

    def stop_away(self) -> None:
        self._life.close()

    def restart_away(self) -> None:
        self.stop_away()
        self.away = self._life.enter_context(self._router("away", self._relayed_url))

    def activate(self, deployment_id: str) -> None:
        artifact = stored_artifact(self._store, deployment_id, {"index.html": deployment_id.encode()})
        with self._database.transaction() as connection:
            self._log.prepare(connection, "demo", artifact, fetcher=None)
            self._log.append(connection, activation("demo", deployment_id))


@pytest.fixture(params=["with Redis", "without Redis"])
def routers(request: pytest.FixtureRequest, tmp_path: Path, database_url: str, redis_url: str) -> Iterator[TwoRouters]:
    with ExitStack() as stack:
        routers = TwoRouters(stack, tmp_path, database_url, redis_url if request.param == "with Redis" else _NO_REDIS)
        routers.activate("depl_1")
        eventually(lambda: serves(routers.other, "depl_1") and serves(routers.away, "depl_1"))
        # They know each other.
        peers = tmp_path / "away" / "router-peers.json"
        eventually(lambda: peers.exists() and routers.other.internal_url in peers.read_text())
        yield routers


def serves(router: LiveRouter, deployment_id: str) -> bool:
    answer = router.get("demo")
    return answer.status_code == 200 and answer.text == deployment_id


def is_ready(router: LiveRouter) -> bool:
    return router.internal("/ready").status_code == 200


def test_a_router_whose_database_says_nothing_is_not_ready_as_soon_as_others_are_ahead(routers: TwoRouters):
    routers.relay.freeze()
    time.sleep(2.0)
    assert is_ready(routers.away)  # nobody is ahead
    routers.activate("depl_2")
    eventually(lambda: serves(routers.other, "depl_2"))
    ahead_at = time.monotonic()
    # Its own question to the database is still waiting for an answer then.
    eventually(lambda: not is_ready(routers.away))
    assert time.monotonic() - ahead_at < 1.5
    assert serves(routers.away, "depl_1")
    assert is_ready(routers.other)
    routers.relay.thaw()
    eventually(lambda: is_ready(routers.away))
    assert serves(routers.away, "depl_2")


def test_a_router_that_starts_without_its_database_asks_those_that_it_knew(routers: TwoRouters):
    routers.relay.freeze()
    routers.activate("depl_2")
    eventually(lambda: serves(routers.other, "depl_2"))
    routers.restart_away()
    # It can say that it is starting until it has asked; that it is behind, from then on.
    eventually(lambda: "newer releases" in routers.away.internal("/ready").text)
    assert serves(routers.away, "depl_1")
    routers.relay.thaw()
    eventually(lambda: is_ready(routers.away) and serves(routers.away, "depl_2"))


def test_a_router_that_starts_again_is_ready_with_the_files_of_what_has_changed(routers: TwoRouters):
    routers.stop_away()
    routers.activate("depl_2")
    routers.restart_away()
    eventually(lambda: is_ready(routers.away))
    assert routers.away.directory.has("depl_2")
    assert serves(routers.away, "depl_2")
