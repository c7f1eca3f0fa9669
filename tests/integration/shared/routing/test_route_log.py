"""The log of route changes: the order of numbers is the order of commits, and a reader misses none."""

from __future__ import annotations

import random
import threading

import pytest

from shared.db.database import Database
from shared.routing.changes import ChangeKind, Position, SiteArtifact, activation, discard, removal
from shared.routing.log import RouteLog
from shared.routing.routers import PreparationOutcome, RouterReport, RouterRepository

pytestmark = pytest.mark.integration


@pytest.fixture
def log(database: Database) -> RouteLog:
    return RouteLog(database)


def report(database: Database, name: str, position: Position, problem: str | None = None) -> None:
    RouterRepository(database).report(
        RouterReport(
            id=name,
            machine="m",
            version="1",
            url="http://127.0.0.1:1",
            epoch=position.epoch,
            applied_number=position.number,
            snapshot_number=0,
            problem=problem,
            sites=0,
        )
    )


def test_a_reader_sees_every_change_once_and_in_the_order_of_commits(log: RouteLog, database: Database):
    """Writers hold their transactions open for a while, so that numbers without the lock would commit out of order."""
    start = log.position()
    writers, changes = 6, 15

    def write(writer: int) -> None:
        for change in range(changes):
            with database.transaction() as connection:
                log.append(connection, activation("shared", f"depl_{writer}x{change}"), removal(f"host-{writer}"))
                threading.Event().wait(random.random() / 500)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    shown: dict[str, str | None] = {}
    position = start
    while len(seen) < 2 * writers * changes:
        found = log.since(position)
        assert found is not None
        for change in found:
            seen.append(change.number)
            shown[change.host or ""] = change.deployment_id
            position = Position(start.epoch, change.number)
    for thread in threads:
        thread.join()
    assert seen == list(range(start.number + 1, start.number + 1 + len(seen)))
    # Followed from the start, the changes lead to the snapshot.
    assert log.snapshot().routes == {"shared": shown["shared"]}
    assert log.snapshot().position == position


def test_a_change_that_is_rolled_back_takes_its_number_with_it(log: RouteLog, database: Database):
    before = log.position()

    def fail() -> None:
        with database.transaction() as connection:
            log.append(connection, activation("demo", "depl_1"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (log.position(), log.snapshot().routes) == (before, {})


def test_artifacts_live_from_their_preparation_until_they_are_discarded(log: RouteLog, database: Database):
    artifact = SiteArtifact("depl_1", "ten_1", "a" * 64, is_preview=True)
    with database.transaction() as connection:
        number = log.prepare(connection, "demo", artifact, fetcher="r1")
    [change] = log.since(Position(log.position().epoch, number - 1)) or []
    assert (change.kind, change.host, change.fetcher) == (ChangeKind.PREPARE, "demo", "r1")
    assert log.find_artifact("depl_1") == artifact
    routers = RouterRepository(database)
    report(database, "r1", log.position())
    routers.record_preparation("r1", "depl_1", number, PreparationOutcome.READY)
    routers.record_preparation("r1", "depl_1", number - 1, PreparationOutcome.FAILED, "older")
    # A router that has taken its leave records nothing.
    routers.record_preparation("gone", "depl_1", number, PreparationOutcome.READY)
    assert [(row.router_id, row.outcome) for row in routers.preparations("depl_1", number)] == [("r1", "ready")]
    assert routers.preparations("depl_1", number + 1) == []
    with database.transaction() as connection:
        log.append(connection, discard("depl_1"))
    assert (log.find_artifact("depl_1"), routers.preparations("depl_1", number)) == (None, [])


def test_compaction_keeps_what_a_live_router_still_needs(
    log: RouteLog, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shared.routing.log._KEPT_CHANGES", 2)
    start = log.position()
    with database.transaction() as connection:
        log.append(connection, *(activation("demo", f"depl_{number}") for number in range(10)))
    report(database, "slow", Position(start.epoch, start.number + 3))
    report(database, "fast", log.position())
    assert log.compact() == 3
    assert len(log.since(Position(start.epoch, start.number + 3)) or []) == 7
    assert log.since(start) is None
    # A router that hasn't been seen for long isn't waited for.
    with database.transaction() as connection:
        connection.execute("UPDATE routers SET seen_at = now() - interval '11 minutes' WHERE id = 'slow'")
    assert log.compact() == 5
    assert log.compact() == 0
    assert log.snapshot().routes == {"demo": "depl_9"}


def test_a_position_of_another_epoch_leads_to_the_snapshot(log: RouteLog, database: Database):
    before = log.position()
    with database.transaction() as connection:
        log.renew_epoch(connection, "restored")
    assert log.since(before) is None
    assert log.since(log.position()) == []
    # A position ahead of the log, from before the restore, is none either.
    assert log.since(Position("restored", before.number + 1)) is None


def test_routers_that_are_silent_for_a_day_are_forgotten(database: Database, log: RouteLog):
    routers = RouterRepository(database)
    report(database, "r1", log.position())
    report(database, "r2", log.position(), problem="The disk is full.")
    with database.transaction() as connection:
        connection.execute("UPDATE routers SET seen_at = now() - interval '25 hours' WHERE id = 'r1'")
    assert [(row.id, row.is_live) for row in routers.all()] == [("r1", False), ("r2", True)]
    assert routers.forget_silent() == 1
    assert [(row.id, row.problem) for row in routers.all()] == [("r2", "The disk is full.")]
    routers.remove("r2")
    assert routers.all() == []
