from __future__ import annotations

import random
import threading

import msgspec
import pytest

from schemas.logs import LogEntry, LogLine, LogTruncated
from shared.db.database import Database
from shared.errors import LeaseLost, NotFound
from shared.logs.base import LogHead
from shared.logs.store import PostgresLogStore
from tests.support.log_rows import end, line, new_deployment, status, texts

pytestmark = pytest.mark.integration


class Log:
    """A deployment's log under test."""

    def __init__(self, database: Database, **options: int) -> None:
        self.database = database
        self.store = PostgresLogStore(database, **options)
        self.id = new_deployment(database)

    def append(self, *entries: LogEntry, fence: int | None = None, batch: int = 0) -> tuple[int, int]:
        with self.database.transaction() as connection:
            return self.store.append(connection, self.id, entries, fence=fence, batch=batch)

    def numbers(self) -> list[int]:
        return [numbered.seq for numbered in self.store.read(self.id, after=0, limit=100_000)]


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database)


def test_entries_are_numbered_without_gaps_and_read_as_written(log: Log) -> None:
    assert log.store.head(log.id) == LogHead(0, is_closed=False)
    written: list[LogEntry] = [status(), line("a\nb \0 ü\u2028"), line("", stage="clone"), end()]
    assert log.append(*written[:3]) == (1, 3)
    assert log.append(written[3]) == (4, 4)
    read = log.store.read(log.id, after=0, limit=10)
    assert [numbered.entry for numbered in read] == written
    assert [numbered.seq for numbered in read] == [1, 2, 3, 4]
    assert log.store.head(log.id) == LogHead(4, is_closed=True)
    assert log.store.heads([log.id, "depl_none"]) == {log.id: LogHead(4, is_closed=True)}


def test_reading_from_any_position_with_any_limit(log: Log) -> None:
    generator = random.Random(4)
    written = 0
    while written < 400:
        count = generator.randint(1, 9)
        log.append(*(line(str(written + number + 1)) for number in range(count)))
        written += count
    for _ in range(40):
        after, limit = generator.randint(0, written), generator.randint(1, 50)
        expected = [str(number) for number in range(after + 1, min(after + limit, written) + 1)]
        assert texts(log.store.read(log.id, after=after, limit=limit)) == expected
    assert log.store.read(log.id, after=written, limit=10) == []
    # Where the numbers of SQL's types end, too.
    for after in (2**15 - 1, 2**31 - 1, 2**31, 2**62, 2**63 - 1):
        assert log.store.read(log.id, after=after, limit=10) == []
        assert texts(log.store.read_lines(log.id, after=after, limit=1, is_backward=True).entries) == [str(written)]


def test_a_page_of_large_lines_ends_early_but_is_never_empty(log: Log) -> None:
    log.append(*(line("x" * 1000) for _ in range(5)))
    assert len(log.store.read(log.id, after=0, limit=5, maximum_bytes=1)) == 1
    assert len(log.store.read(log.id, after=0, limit=5, maximum_bytes=2500)) == 3


def test_nothing_follows_the_end(log: Log) -> None:
    assert log.append(line("a"), end(), line("b")) == (1, 2)
    assert log.append(line("c")) == (3, 2)
    assert log.append(line("c"), fence=9, batch=1) == (3, 2)
    assert log.numbers() == [1, 2]


def test_a_rolled_back_transaction_leaves_no_gap(log: Log) -> None:
    class Crash(Exception):
        pass

    def crash() -> None:
        with log.database.transaction() as connection:
            assert log.store.append(connection, log.id, [line("lost")], fence=3, batch=1) == (1, 1)
            raise Crash

    with pytest.raises(Crash):
        crash()
    assert log.append(line("kept"), fence=3, batch=1) == (1, 1)
    assert texts(log.store.read(log.id, after=0, limit=9)) == ["kept"]


def test_a_repeated_batch_changes_nothing(log: Log) -> None:
    assert log.append(line("a"), line("b"), fence=5, batch=1) == (1, 2)
    assert log.append(line("a"), line("b"), fence=5, batch=1) == (3, 2)
    assert log.append(line("c"), fence=5, batch=2) == (3, 3)
    assert log.store.last_batch(log.id, 5) == 2
    assert log.append(status(), fence=5) == (4, 4)
    assert log.store.last_batch(log.id, 5) == 2
    assert log.numbers() == [1, 2, 3, 4]


def test_a_zombie_is_fenced_off(log: Log) -> None:
    log.append(line("old"), fence=5, batch=7)
    log.append(line("new"), fence=6, batch=1)
    for batch in (0, 1, 8):
        with pytest.raises(LeaseLost):
            log.append(line("zombie"), fence=5, batch=batch)
    with pytest.raises(LeaseLost):
        log.store.last_batch(log.id, 5)
    assert log.store.last_batch(log.id, 6) == 1
    assert log.store.last_batch(log.id, 7) == 0
    log.append(line("of the API"))
    assert texts(log.store.read(log.id, after=0, limit=9)) == ["old", "new", "of the API"]


def test_a_full_log_gets_one_mark_and_still_its_end(database: Database) -> None:
    log = Log(database, maximum_bytes=1000)
    log.append(*(line("x" * 84) for _ in range(9)))
    assert log.append(line("fits" + "x" * 80), line("too much"), status(), line("x")) == (10, 12)
    assert log.append(line("more"), fence=1, batch=1) == (13, 12)
    assert log.append(line("more"), end()) == (13, 13)
    kinds = [type(numbered.entry).__name__ for numbered in log.store.read(log.id, after=9, limit=9)]
    assert kinds == ["LogLine", "LogTruncated", "LogStatus", "LogEnd"]


def test_concurrent_writers_make_one_sequence(log: Log) -> None:
    def write(name: str) -> None:
        for number in range(25):
            log.append(line(f"{name} {number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = log.store.read(log.id, after=0, limit=1000)
    assert [numbered.seq for numbered in entries] == list(range(1, 101))
    for name in "abcd":
        assert [text for text in texts(entries) if text[0] == name] == [f"{name} {number}" for number in range(25)]


def test_a_deleted_deployment(log: Log) -> None:
    log.append(line("a"))
    with log.database.transaction() as connection:
        connection.execute("DELETE FROM deployments WHERE id = %s", (log.id,))
    assert log.store.head(log.id) == LogHead(0, is_closed=False)
    assert log.store.read(log.id, after=0, limit=9) == []
    with pytest.raises(NotFound):
        log.append(line("b"))


def test_pages_of_lines(log: Log) -> None:
    log.append(status("cloning"), *(line(f"clone {number}", stage="clone") for number in range(5)))
    log.append(status(), *(line(f"build {number}") for number in range(200)), LogTruncated(timestamp=1), end())

    page = log.store.read_lines(log.id, after=None, limit=3)
    assert (texts(page.entries), page.position, page.has_more) == (["clone 0", "clone 1", "clone 2"], 4, True)
    page = log.store.read_lines(log.id, after=page.position, limit=3)
    assert (texts(page.entries), page.has_more) == (["clone 3", "clone 4", "build 0"], True)
    page = log.store.read_lines(log.id, after=None, limit=1000, stage="clone")
    assert (len(page.entries), page.position, page.has_more) == (5, 209, False)
    page = log.store.read_lines(log.id, after=None, limit=1000)
    assert isinstance(page.entries[-1].entry, LogTruncated)

    page = log.store.read_lines(log.id, after=None, limit=2, stage="build", is_backward=True)
    assert (texts(page.entries), page.has_more) == (["build 199", "build 198"], True)
    page = log.store.read_lines(log.id, after=page.position, limit=1000, stage="build", is_backward=True)
    assert (texts(page.entries)[0], texts(page.entries)[-1], page.has_more) == ("build 197", "build 0", False)
    page = log.store.read_lines(log.id, after=209, limit=10)
    assert (page.entries, page.position, page.has_more) == ([], 209, False)


def test_entries_survive_a_round_trip_as_they_are(log: Log) -> None:
    entry = LogLine(timestamp=2**41, stage="build", stream="stderr", text="\x1b[31m🚀", continued=True)
    log.append(entry)
    assert msgspec.json.encode(log.store.read(log.id, after=0, limit=1)[0].entry) == msgspec.json.encode(entry)
