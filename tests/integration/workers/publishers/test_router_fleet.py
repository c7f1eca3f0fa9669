"""Routers that restart while a deployment waits for them, seen from the database alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.db.database import Database
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import SiteArtifact
from shared.routing.log import RouteLog
from shared.routing.routers import PreparationOutcome, RouterReport, RouterRepository
from workers.publishers.router_fleet import RouterFleetPublisher

pytestmark = pytest.mark.integration
ARTIFACT = SiteArtifact("depl_1", "ten_1", "a" * 64, is_preview=False)


@pytest.fixture
def publisher(database: Database, redis_url: str) -> Iterator[RouterFleetPublisher]:
    with closing(connect_redis(redis_url)) as redis:
        yield RouterFleetPublisher(RouteLog(database), RouterRepository(database), RouteBell(redis), database)


def report(database: Database, *, snapshot_number: int) -> None:
    position = RouteLog(database).position()
    RouterRepository(database).report(
        RouterReport(
            id="r1",
            machine="m",
            version="1",
            url="http://127.0.0.1:1",
            epoch=position.epoch,
            applied_number=position.number,
            snapshot_number=snapshot_number,
            problem=None,
            sites=0,
        )
    )


def wait_for_change(database: Database, number: int) -> int:
    """The number of the log's last change, once it is greater."""
    for _ in range(6000):
        last = RouteLog(database).position().number
        if last > number:
            return last
        threading.Event().wait(0.01)
    raise AssertionError("nothing was appended within a minute")


def test_a_router_that_restarts_during_a_preparation_is_asked_again(
    publisher: RouterFleetPublisher, database: Database
):
    report(database, snapshot_number=0)
    start = RouteLog(database).position().number
    ended = threading.Event()

    def prepare() -> None:
        publisher.prepare("demo", ARTIFACT, is_stopped=lambda: False)
        ended.set()

    thread = threading.Thread(target=prepare)
    thread.start()
    first = wait_for_change(database, start)
    # It starts from the snapshot, which holds the first preparation, and so carries it out never.
    report(database, snapshot_number=first)
    second = wait_for_change(database, first)
    assert not ended.is_set()
    RouterRepository(database).record_preparation("r1", "depl_1", second, PreparationOutcome.READY)
    assert ended.wait(60)
    thread.join()
