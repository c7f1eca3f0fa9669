"""The sequence of a tenant's status changes, on a real PostgreSQL."""

from __future__ import annotations

import random
import threading

import pytest

from schemas.logs import LogEnd, LogEntry, LogStatus
from shared.db.database import Database
from shared.deployments.state import DeploymentStatus
from shared.identifiers import new_identifier
from shared.logs.account_events import AccountEvent, AccountEventStore
from shared.logs.store import PostgresLogStore
from tests.support.log_rows import line, new_deployment

pytestmark = pytest.mark.integration


class Account:
    """A tenant with deployments to write to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.log = PostgresLogStore(database)
        self.store = AccountEventStore(database)
        self.deployments = [new_deployment(database)]
        [self.id] = database.fetch_values(str, "SELECT tenant_id FROM deployments")
        [self.project_id] = database.fetch_values(str, "SELECT project_id FROM deployments")

    def add_deployment(self, *, is_preview: bool = False) -> str:
        deployment = new_identifier("depl")
        with self.database.transaction() as connection:
            connection.execute(
                """INSERT INTO deployments
                  (id, tenant_id, project_id, repository_url, branch, release_sequence, host, is_preview)
                VALUES (%s, %s, %s, 'https://example.org/x.git', 'main', 1, 'h', %s)""",
                (deployment, self.id, self.project_id, is_preview),
            )
        self.deployments.append(deployment)
        return deployment

    def append(self, *entries: LogEntry, deployment: str | None = None, fence: int | None = None) -> None:
        with self.database.transaction() as connection:
            self.log.append(connection, deployment or self.deployments[0], entries, fence=fence)

    def events(self, after: int = 0, limit: int = 100_000) -> list[AccountEvent]:
        page = self.store.read({self.id: after}, limit=limit).get(self.id)
        return [] if page is None else list(page.events)

    def seqs(self, after: int = 0) -> list[int]:
        return [event.seq for event in self.events(after)]

    def head(self) -> int:
        return self.store.heads([self.id])[self.id]


@pytest.fixture
def account(database: Database) -> Account:
    return Account(database)


def status(name: str, at: int = 1) -> LogStatus:
    return LogStatus(timestamp=at, status=name)


def test_changes_are_numbered_and_lines_are_not(account: Account) -> None:
    preview = account.add_deployment(is_preview=True)
    assert (account.head(), account.events()) == (0, [])
    account.append(line("a"))
    assert account.head() == 0
    account.append(LogStatus(timestamp=7, status="cloning", stage="clone", attempt=2), line("b"))
    account.append(line("c"), status("failed", 8), deployment=preview)
    first, second = account.events()
    assert (first.tenant_id, first.seq, first.deployment_id) == (account.id, 1, account.deployments[0])
    assert (first.project_id, first.is_preview) == (account.project_id, False)
    assert (first.change.status, first.change.stage, first.change.attempt, first.change.ts) == (
        "cloning",
        "clone",
        2,
        7,
    )
    assert (second.seq, second.deployment_id, second.is_preview, second.change.status) == (2, preview, True, "failed")
    assert [event.seq for event in account.events(after=1)] == [2]
    assert account.store.read({account.id: 2}, limit=9) == {}
    assert account.store.heads([account.id, "ten_none"]) == {account.id: 2, "ten_none": 0}


def test_an_end_and_its_status_are_one_change(account: Account) -> None:
    error: dict[str, str | None] = {"code": "X", "stage": None, "message": 'a "quoted"\nline \0 ü'}
    account.append(
        status("building"), status("failed", 5), LogEnd(timestamp=5, status="failed", url="http://u", error=error)
    )
    building, failed = account.events()
    assert building.change.status == "building"
    assert (failed.change.status, failed.change.url, failed.change.error) == ("failed", "http://u", error)
    # Nothing follows the end of a log.
    account.append(status("building"))
    assert account.head() == 2
    other = account.add_deployment()
    account.append(LogEnd(timestamp=6, status="cancelled", ignored="nothing new"), deployment=other)
    assert (account.events()[-1].change.status, account.events()[-1].change.ignored) == ("cancelled", "nothing new")


def test_what_is_not_committed_leaves_no_gap(account: Account) -> None:
    def crash() -> None:
        with account.database.transaction() as connection:
            account.log.append(connection, account.deployments[0], [status("cloning")], fence=3, batch=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    account.append(status("building"), fence=3)
    assert [(event.seq, event.change.status) for event in account.events()] == [(1, "building")]


def test_a_repeated_batch_is_one_change(account: Account) -> None:
    for _ in range(3):
        with account.database.transaction() as connection:
            account.log.append(connection, account.deployments[0], [status("cloning")], fence=3, batch=1)
    assert account.seqs() == [1]


def test_many_writers_leave_no_gap_and_never_lock_each_other_out(account: Account) -> None:
    """Each locks a deployment, its log and the account, as the services do; a deadlock would raise Unavailable."""
    writers, rounds = 6, 40
    deployments = [account.add_deployment() for _ in range(3)]
    problems: list[BaseException] = []
    seen: list[list[int]] = []
    stop = threading.Event()

    def write(number: int) -> None:
        generator = random.Random(number)
        try:
            for _ in range(rounds):
                chosen = generator.choice(deployments)
                with account.database.transaction() as connection:
                    connection.execute("UPDATE deployments SET started_at = now() WHERE id = %s", (chosen,))
                    entries = [line("x"), *(status(f"{number}") for _ in range(generator.randint(1, 3)))]
                    account.log.append(connection, chosen, entries, fence=None)
        except BaseException as error:  # noqa: BLE001  shown by the test
            problems.append(error)

    def follow() -> None:
        """Reads as a stream does: what it has read is never added to from behind."""
        read: list[int] = []
        try:
            while not stop.is_set() or account.head() > (read[-1] if read else 0):
                read += [event.seq for event in account.events(after=read[-1] if read else 0, limit=7)]
        except BaseException as error:  # noqa: BLE001  shown by the test
            problems.append(error)
        seen.append(read)

    follower = threading.Thread(target=follow)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in [follower, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    follower.join()
    assert not problems, problems
    written = len(account.events())
    assert writers * rounds <= written <= writers * rounds * 3
    assert seen == [list(range(1, written + 1))]
    statuses = sum(
        isinstance(numbered.entry, LogStatus)
        for deployment in deployments
        for numbered in account.log.read(deployment, after=0, limit=100_000)
    )
    assert written == statuses


def test_deleted_projects_leave_their_events(account: Account) -> None:
    account.append(status("cloning"))
    account.append(status("building"))
    with account.database.transaction() as connection:
        connection.execute("DELETE FROM projects WHERE id = %s", (account.project_id,))
    assert account.seqs() == [1, 2]


def test_only_the_newest_are_kept_and_holes_are_never_made(account: Account) -> None:
    for number in range(10):
        account.append(status(str(number)))
    assert account.store.delete_expired() == 0
    assert account.store.delete_expired(kept_events=7) == 3
    assert account.seqs() == list(range(4, 11))
    # A clock that went back: the fifth is older than the fourth.
    with account.database.transaction() as connection:
        connection.execute("UPDATE account_events SET created_at = now() - interval '25 hours' WHERE seq IN (5, 6)")
    assert account.store.delete_expired() == 3
    assert account.seqs() == [7, 8, 9, 10]
    assert account.store.delete_expired(kept_hours=0) == 4
    page = account.store.read({account.id: 3}, limit=5)[account.id]
    assert (page.last_seq, list(page.events)) == (10, [])
    account.append(status("later"))
    assert account.seqs() == [11]


def test_several_tenants_in_one_read(database: Database) -> None:
    ids: list[str] = []
    log, store = PostgresLogStore(database), AccountEventStore(database)
    for count in (3, 1, 0):
        deployment = new_deployment(database)
        ids += database.fetch_values(str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", {"id": deployment})
        for _ in range(count):
            with database.transaction() as connection:
                log.append(connection, deployment, [status("building")], fence=None)
    pages = store.read({ids[0]: 1, ids[1]: 0, ids[2]: 0, "ten_none": 0}, limit=1)
    assert {tenant: (page.last_seq, [event.seq for event in page.events]) for tenant, page in pages.items()} == {
        ids[0]: (3, [2]),
        ids[1]: (1, [1]),
    }


def test_a_deleted_tenant_takes_its_events_along(account: Account) -> None:
    account.append(status(DeploymentStatus.QUEUED))
    with account.database.transaction() as connection:
        connection.execute("DELETE FROM tenants WHERE id = %s", (account.id,))
    assert account.store.read({account.id: 0}, limit=9) == {}
    assert account.store.heads([account.id]) == {account.id: 0}
