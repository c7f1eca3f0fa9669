"""The writer at its limits: a full log, a database that is away for long, numbers that somebody else has used."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.logs import LogLine, LogTruncated
from shared.db.database import Database
from shared.db.migrate import migrate
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.store import PostgresLogStore
from shared.stack.postgres import PostgresServer
from tests.support.log_rows import RecordingNotifier, end, eventually, line, new_deployment, status, texts
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration


@pytest.fixture
def deployment(database: Database) -> str:
    return new_deployment(database)


def writer_of(
    database: Database, deployment: str, *, fence: int = 1, maximum_bytes: int = 1 << 30, **more: int
) -> LogWriter:
    store = PostgresLogStore(database, maximum_bytes=maximum_bytes)
    return LogWriter(store, database, RecordingNotifier(), deployment, "build", fence, Redactor([]), **more)


def test_a_full_log_has_one_mark_and_the_build_continues(database: Database, deployment: str) -> None:
    store = PostgresLogStore(database, maximum_bytes=10_000)
    writer = writer_of(database, deployment, maximum_bytes=10_000)
    # 32 bytes a line: 312 fit.
    for _ in range(400):
        writer.write("stdout", b"0123456789abcdef\n")
    writer.flush()
    for _ in range(100):
        writer.write("stdout", b"x" * 50_000 + b"\n")
    writer.system("dropped too")
    writer.flush()
    writer.close()
    with database.transaction() as connection:
        store.append(connection, deployment, [status()], fence=None)
    with writer_of(database, deployment, fence=2, maximum_bytes=10_000) as later:
        later.system("The next stage begins")
    with database.transaction() as connection:
        store.append(connection, deployment, [end()], fence=None)
    entries = [numbered.entry for numbered in store.read(deployment, after=0, limit=9999)]
    lines = [entry for entry in entries if isinstance(entry, LogLine)]
    kinds = [type(entry).__name__ for entry in entries[len(lines) :]]
    assert len(lines) == 312
    assert kinds == ["LogTruncated", "LogStatus", "LogEnd"]


def test_a_full_log_releases_writers_that_wait_for_room(database: Database, deployment: str) -> None:
    writer = writer_of(database, deployment, maximum_bytes=1000, buffer_bytes=20_000)
    for _ in range(5000):
        writer.write("stdout", b"0123456789abcdef\n" * 100)
    writer.close()
    entries = PostgresLogStore(database).read(deployment, after=0, limit=9999)
    assert [isinstance(numbered.entry, LogTruncated) for numbered in entries] == [False] * 31 + [True]


def test_a_closed_log_stores_nothing_and_blocks_no_writer(database: Database, deployment: str) -> None:
    store = PostgresLogStore(database)
    with database.transaction() as connection:
        store.append(connection, deployment, [end()], fence=None)
    with writer_of(database, deployment, buffer_bytes=20_000) as writer:
        for _ in range(1000):
            writer.write("stdout", b"too late " * 100 + b"\n")
    assert store.head(deployment).last_seq == 1


def test_numbers_that_another_writer_of_the_lease_has_used(database: Database, deployment: str) -> None:
    """The worker thought the first writer was gone, and a batch of it arrived all the same."""
    store = PostgresLogStore(database)
    writer = writer_of(database, deployment, fence=5)
    writer.write("stdout", b"one\n")
    writer.flush()
    with database.transaction() as connection:
        store.append(connection, deployment, [line("of another")], fence=5, batch=store.last_batch(deployment, 5) + 1)
    writer.write("stdout", b"two\n")
    writer.flush()
    writer.write("stdout", b"three\n")
    writer.close()
    assert texts(store.read(deployment, after=0, limit=99)) == ["one", "of another", "two", "three"]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgresServer]:
    [port] = free_ports(1)
    server = PostgresServer(tmp_path / "postgres", port=port, password=secrets.token_hex(16), is_durable=False)
    server.start()
    try:
        server.wait(120)
        yield server
    finally:
        server.stop()


def test_a_build_waits_while_postgres_is_away_and_loses_nothing(own_server: PostgresServer) -> None:
    migrate(own_server.url)
    database = Database(own_server.url, timeout_seconds=2)
    deployment = new_deployment(database)
    writer = writer_of(database, deployment, buffer_bytes=200_000)
    total, written = 20_000, 0

    def build() -> None:
        nonlocal written
        for number in range(total):
            writer.write("stdout", b"line %d\n" % number)
            written = number + 1

    store = PostgresLogStore(database)
    thread = threading.Thread(target=build, daemon=True)
    writer.write("stdout", b"begins\n")
    writer.flush()
    own_server.stop()
    thread.start()
    # 200 000 bytes are less than a thousand lines with what they cost in memory; no more is taken.
    eventually(lambda: written > 800, seconds=60)
    thread.join(1)
    assert thread.is_alive()
    assert written <= 1000
    own_server.start()
    own_server.wait(120)
    thread.join(120)
    assert not thread.is_alive()
    writer.close()
    stored = texts(store.read(deployment, after=0, limit=total + 9, maximum_bytes=1 << 30))
    assert stored == ["begins", *(f"line {number}" for number in range(total))]
    database.close()
