"""Stores the batches of one writer, each exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.logs import LogEntry
from shared.db.database import Connection, Database
from shared.logs.store import Appended


class BatchStore(Protocol):
    """The part of PostgresLogStore that a writer needs."""

    def append_batch(
        self,
        connection: Connection,
        deployment_id: str,
        entries: Sequence[LogEntry],
        *,
        fence: int | None,
        batch: int = 0,
    ) -> Appended: ...

    def last_batch(self, deployment_id: str, fence: int) -> int: ...


class BatchAppender:
    """Numbers batches under one fence, so that a batch that is sent again after a lost answer changes nothing.

    Not safe from several threads.
    """

    def __init__(self, store: BatchStore, database: Database, deployment_id: str, fence: int) -> None:
        self._store = store
        self._database = database
        self._deployment_id = deployment_id
        self._fence = fence
        # The last batch stored under this fence. None until it is read, and when another writer has stored one since.
        self._number: int | None = None
        # Whether the next batch may be stored already, by an attempt whose answer was lost.
        self._is_retry = False

    def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Stores a batch. After an exception, call it again with the same entries, or never again.

        Raises Unavailable while the database doesn't answer, LeaseLost when a greater fence has written, and NotFound
        when the deployment has been deleted.
        """
        while True:
            if self._number is None:
                self._number = self._store.last_batch(self._deployment_id, self._fence)
                self._is_retry = False
            was_retry, self._is_retry = self._is_retry, True
            appended = self._append(entries, self._number + 1)
            if appended.is_repeat and not was_retry:
                # Another writer of this fence has used the number since: these entries are not stored yet.
                self._number = None
                continue
            self._number += 1
            self._is_retry = False
            return appended

    def _append(self, entries: Sequence[LogEntry], number: int) -> Appended:
        with self._database.transaction() as connection:
            return self._store.append_batch(connection, self._deployment_id, entries, fence=self._fence, batch=number)
