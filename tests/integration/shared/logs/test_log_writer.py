from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from shared.db.database import Connection, Database
from shared.errors import LeaseLost, PlatformError, Unavailable
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.notifier import RedisNotifier
from shared.logs.store import Appended, PostgresLogStore
from tests.support.log_rows import RecordingNotifier, eventually, line, new_deployment, texts

pytestmark = pytest.mark.integration


@pytest.fixture
def store(database: Database) -> PostgresLogStore:
    return PostgresLogStore(database)


@pytest.fixture
def deployment(database: Database) -> str:
    return new_deployment(database)


class Outage:
    """A database that can be made to refuse, before a transaction begins or right after it was committed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.refuses = threading.Event()
        self.loses_answers = 0
        self.attempts = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        self.attempts += 1
        if self.refuses.is_set():
            raise Unavailable("down")
        with self._database.transaction() as connection:
            yield connection
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("The answer to COMMIT was lost.")


class SlowStore(PostgresLogStore):
    """Stores only while the gate is open."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.gate = threading.Event()
        self.largest = 0

    def append_batch(self, connection: Connection, deployment_id: str, entries: object, **options: object) -> Appended:
        self.gate.wait(120)
        self.largest = max(self.largest, len(entries))  # type: ignore[arg-type]
        return super().append_batch(connection, deployment_id, entries, **options)  # type: ignore[arg-type]


def test_lines_are_masked_stored_in_order_and_announced(
    store: PostgresLogStore, database: Database, deployment: str
) -> None:
    notifier = RecordingNotifier()
    redactor = Redactor(["hunter22"])
    with LogWriter(store, database, notifier, deployment, "build", 3, redactor) as writer:
        writer.system("Runs with hunter22\nin two lines")
        writer.write("stdout", b"one hun")
        writer.write("stderr", b"two\n")
        writer.write("stdout", b"ter22\nthree")
        writer.system("after")
    entries = store.read(deployment, after=0, limit=99)
    assert texts(entries) == ["Runs with ***", "in two lines", "two", "one ***", "three", "after"]
    assert [(first, last) for first, last, _ in notifier.notifications][-1][1] == 6
    assert [text for *_, lines in notifier.notifications for text in lines] == [numbered.entry for numbered in entries]


def test_a_line_is_stored_soon_without_flushing(store: PostgresLogStore, database: Database, deployment: str) -> None:
    with LogWriter(store, database, RecordingNotifier(), deployment, "build", 3, Redactor([])) as writer:
        writer.write("stdout", b"hello\n")
        eventually(lambda: store.head(deployment).last_seq == 1)


def test_flush_and_a_second_writer_under_the_same_fence(
    store: PostgresLogStore, database: Database, deployment: str
) -> None:
    for name in ("first", "second"):
        writer = LogWriter(store, database, RecordingNotifier(), deployment, name, 7, Redactor([]))
        for number in range(3):
            writer.write("stdout", f"{name} {number}\n".encode())
            writer.flush()
            assert store.head(deployment).last_seq == number + 1 + (3 if name == "second" else 0)
        writer.close()
        writer.close()
        writer.write("stdout", b"too late\n")
    expected = [f"{name} {number}" for name in ("first", "second") for number in range(3)]
    assert texts(store.read(deployment, after=0, limit=99)) == expected


def test_flush_and_system_end_a_line_in_progress(store: PostgresLogStore, database: Database, deployment: str) -> None:
    with LogWriter(store, database, RecordingNotifier(), deployment, "build", 3, Redactor(["secret"])) as writer:
        writer.write("stdout", b"50% sec")
        writer.system("still here")
        writer.write("stdout", b"ret 100%")
        writer.flush()
        assert texts(store.read(deployment, after=0, limit=99)) == ["50% ", "still here", "*** 100%"]


def test_an_outage_loses_and_doubles_nothing(store: PostgresLogStore, database: Database, deployment: str) -> None:
    outage = Outage(database)
    writer = LogWriter(store, outage, RecordingNotifier(), deployment, "build", 3, Redactor([]))  # type: ignore[arg-type]
    writer.write("stdout", b"before\n")
    writer.flush()
    outage.refuses.set()
    for number in range(500):
        writer.write("stdout", b"line %d\n" % number)
    seen = outage.attempts
    eventually(lambda: outage.attempts > seen + 1)
    outage.loses_answers = 2
    outage.refuses.clear()
    writer.close()
    assert texts(store.read(deployment, after=0, limit=999)) == ["before", *(f"line {number}" for number in range(500))]


def test_postgres_that_ends_connections(
    store: PostgresLogStore, database: Database, deployment: str, database_url: str
) -> None:
    writer = LogWriter(store, database, RecordingNotifier(), deployment, "build", 3, Redactor([]))
    with psycopg.connect(database_url, autocommit=True) as other:
        for number in range(300):
            writer.write("stdout", b"line %d\n" % number)
            if number % 100 == 0:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                writer.flush()
    writer.close()
    assert texts(store.read(deployment, after=0, limit=999)) == [f"line {number}" for number in range(300)]


def test_output_that_outruns_the_store_waits(database: Database, deployment: str) -> None:
    store = SlowStore(database)
    writer = LogWriter(store, database, RecordingNotifier(), deployment, "build", 3, Redactor([]), buffer_bytes=100_000)
    written = 0

    def write() -> None:
        nonlocal written
        for number in range(3000):
            writer.write("stdout", b"%04d " % number + b"x" * 95 + b"\n")
            written += 1

    thread = threading.Thread(target=write)
    thread.start()
    # 100 000 bytes are some 330 lines with what they cost in memory.
    eventually(lambda: written > 200)
    stalled_at = written
    assert not thread.join(0.3)
    assert thread.is_alive()
    assert written < 400
    store.gate.set()
    thread.join(120)
    writer.close()
    assert stalled_at < 400
    assert [text[:4] for text in texts(store.read(deployment, after=0, limit=5000))] == [
        f"{number:04d}" for number in range(3000)
    ]


def test_a_lost_lease_silences_the_writer(store: PostgresLogStore, database: Database, deployment: str) -> None:
    told = threading.Event()
    zombie = LogWriter(store, database, RecordingNotifier(), deployment, "build", 3, Redactor([]), on_lost=told.set)
    zombie.write("stdout", b"mine\n")
    zombie.flush()
    with database.transaction() as connection:
        store.append(connection, deployment, [line("of the next worker")], fence=4, batch=1)
    zombie.write("stdout", b"zombie\n")
    assert told.wait(120)
    assert zombie.lost.is_set()
    zombie.write("stdout", b"zombie " * 1_000_000)
    zombie.system("zombie")
    with pytest.raises(LeaseLost):
        zombie.flush()
    zombie.close()
    assert texts(store.read(deployment, after=0, limit=99)) == ["mine", "of the next worker"]


def test_a_deleted_deployment_silences_the_writer(store: PostgresLogStore, database: Database, deployment: str) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM deployments WHERE id = %s", (deployment,))
    writer = LogWriter(store, database, RecordingNotifier(), deployment, "build", 3, Redactor([]))
    writer.write("stdout", b"x\n")
    assert writer.lost.wait(120)
    writer.close()


def test_close_gives_up_in_the_end_and_says_so(store: PostgresLogStore, database: Database, deployment: str) -> None:
    outage = Outage(database)
    outage.refuses.set()
    writer = LogWriter(
        store,
        outage,
        RecordingNotifier(),
        deployment,
        "build",
        3,
        Redactor([]),
        buffer_bytes=1,  # type: ignore[arg-type]
    )
    writer.write("stdout", b"x\n")
    blocked = threading.Thread(target=writer.write, args=("stdout", b"y\n"))
    blocked.start()
    with pytest.raises(PlatformError):
        writer.flush(timeout_seconds=0.1)
    with pytest.raises(PlatformError):
        writer.close(timeout_seconds=0.2)
    blocked.join(120)
    assert not blocked.is_alive()


def test_a_notifier_without_redis_neither_raises_nor_stalls() -> None:
    notifier = RedisNotifier.connect("redis://127.0.0.1:1/0")
    for number in range(1, 10_000):
        notifier.notify("depl_x", number, number, [line("x")])
    notifier.close()
