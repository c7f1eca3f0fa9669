"""Shared by tests of archived logs: a log, its compactor, and a way to stop both between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from schemas.logs import LogEntry
from shared.db.database import Connection, Database
from shared.logs.archive.compactor import LogCompactor
from shared.logs.archive.store import ArchiveReader
from shared.logs.base import NumberedEntry
from shared.logs.store import LogPage, PostgresLogStore
from shared.storage.base import ArtifactStore
from tests.support.artifact_stores import MemoryArtifactStore, ObservedArtifactStore
from tests.support.log_rows import new_deployment
from tests.support.manual_clock import ManualClock


class Crash(Exception):
    """The process ends here."""


class ArchiveRow(msgspec.Struct, frozen=True):
    object_key: str
    size_bytes: int


class ObservedDatabase(Database):
    """The real database; tells before and after every transaction."""

    def __init__(self, url: str, observe: Callable[[str], None] | None = None) -> None:
        super().__init__(url)
        self.observe: Callable[[str], None] = observe or (lambda _step: None)

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        self.observe("before transaction")
        with super().transaction() as connection:
            yield connection
        self.observe("after transaction")


class ArchiveWorld:
    """Logs in a real database, and a compactor for them whose every step can be observed.

    `objects` is what the object store holds, `away` the way to it; readers go through `away` too.
    """

    def __init__(self, url: str, directory: Path, objects: ArtifactStore | None = None) -> None:
        self.database = Database(url)
        self.memory = MemoryArtifactStore()
        self.objects: ArtifactStore = objects or self.memory
        self.away = ObservedArtifactStore(self.objects)
        self.store = PostgresLogStore(self.database, ArchiveReader(self.away))
        self.clock = ManualClock()
        self.stepping = ObservedDatabase(url)
        self.stepping_store = ObservedArtifactStore(self.objects)
        self.directory = directory / "archives"
        self.compactor = self.make_compactor()

    def make_compactor(self, **options: Any) -> LogCompactor:
        parts: dict[str, Any] = {
            "database": self.stepping,
            "store": self.stepping_store,
            "directory": self.directory,
            "after_seconds": 0.0,
            "clock": self.clock,
        }
        return LogCompactor(**(parts | options))

    def close(self) -> None:
        self.database.close()
        self.stepping.close()

    def log(self, *batches: list[LogEntry]) -> str:
        """A new deployment's log."""
        deployment_id = new_deployment(self.database)
        for batch in batches:
            self.append(deployment_id, *batch)
        return deployment_id

    def append(self, deployment_id: str, *entries: LogEntry, fence: int | None = None, batch: int = 0) -> None:
        with self.database.transaction() as connection:
            self.store.append(connection, deployment_id, entries, fence=fence, batch=batch)

    def observe(self, observe: Callable[[str], None] | None) -> None:
        """Has every step of the compactor observed."""
        self.stepping.observe = self.stepping_store.observe = observe or (lambda _step: None)

    def crash_at(self, number: int) -> Callable[[], bool]:
        """The compactor dies at its step of this number, counted from 0. Returns whether it has got there."""
        count = -1

        def observe(_step: str) -> None:
            nonlocal count
            count += 1
            if count == number:
                raise Crash

        self.observe(observe)
        return lambda: count >= number

    def fresh_reader(self) -> PostgresLogStore:
        """A store with empty caches."""
        return PostgresLogStore(self.database, ArchiveReader(self.away, clock=self.clock))

    def chunks(self, deployment_id: str) -> int:
        query = "SELECT count(*) FROM log_chunks WHERE deployment_id = %(id)s"
        return self.database.fetch_value(int, query, {"id": deployment_id}) or 0

    def is_archived(self, deployment_id: str) -> bool:
        return self.archive_row(deployment_id) is not None

    def archive_row(self, deployment_id: str) -> ArchiveRow | None:
        query = "SELECT object_key, size_bytes FROM log_archives WHERE deployment_id = %(id)s"
        return self.database.fetch_one(ArchiveRow, query, {"id": deployment_id})

    def delete(self, deployment_id: str) -> None:
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM deployments WHERE id = %s", (deployment_id,))

    def age(self, deployment_id: str, seconds: float) -> None:
        """The log was closed so long ago."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE log_heads SET closed_at = now() - make_interval(secs => %s) WHERE deployment_id = %s",
                (seconds, deployment_id),
            )


def paged(store: PostgresLogStore, deployment_id: str, *, limit: int, after: int = 0) -> Iterator[NumberedEntry]:
    """Every entry, page by page as a stream asks for them."""
    while page := store.read(deployment_id, after=after, limit=limit):
        yield from page
        after = page[-1].seq


def line_pages(store: PostgresLogStore, deployment_id: str, **options: Any) -> list[LogPage]:
    """Every page of lines, in the way the API's clients turn them."""
    pages: list[LogPage] = []
    after: int | None = None
    while not pages or pages[-1].has_more:
        pages.append(store.read_lines(deployment_id, after=after, **options))
        after = pages[-1].position
    return pages
