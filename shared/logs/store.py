"""The log in PostgreSQL: one head row and compressed chunks for each deployment.

The LogCompactor moves a finished log into the object store; reading finds it there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import psycopg

from schemas.logs import LogEnd, LogEntry, LogLine, LogTruncated
from shared.db.database import Connection, Database
from shared.errors import LeaseLost, NotFound
from shared.logs.account_events import record_changes
from shared.logs.archive.store import ArchiveReader
from shared.logs.base import LogHead, NumberedEntry
from shared.logs.chunks import ChunkCodec
from shared.logs.stored_entries import GREATEST_SEQ, StoredEntries

MAXIMUM_LOG_BYTES = 100 * 1024 * 1024
# What a line costs in addition to its text, so that a million empty lines aren't free.
_LINE_OVERHEAD_BYTES = 16
# A page ends early at this size.
_PAGE_BYTES = 1024 * 1024
# How many entries a filtered page examines before it returns what it has found.
_SCANNED_ENTRIES = 50_000

_LOCK_HEAD = """
  SELECT next_seq, fence, batch, stored_bytes, is_truncated, is_closed
  FROM log_heads WHERE deployment_id = %(id)s FOR UPDATE"""
_CREATE_HEAD = "INSERT INTO log_heads (deployment_id) VALUES (%(id)s) ON CONFLICT (deployment_id) DO NOTHING"
_ADVANCE_HEAD = """
  UPDATE log_heads SET next_seq = %(next)s, fence = %(fence)s, batch = %(batch)s,
    stored_bytes = %(bytes)s, is_truncated = %(truncated)s, is_closed = %(closed)s,
    closed_at = CASE WHEN %(closed)s THEN now() END
  WHERE deployment_id = %(id)s"""
_INSERT_CHUNK = """
  INSERT INTO log_chunks (deployment_id, seq_from, seq_to, entries)
  VALUES (%(id)s, %(first)s, %(last)s, %(entries)s)"""
_HEAD = "SELECT next_seq - 1 AS last_seq, is_closed FROM log_heads WHERE deployment_id = %(id)s"
_HEADS = "SELECT deployment_id, next_seq - 1 AS last_seq, is_closed FROM log_heads WHERE deployment_id = ANY(%(ids)s)"
_POSITION = "SELECT fence, batch FROM log_heads WHERE deployment_id = %(id)s"


class _Head(msgspec.Struct, frozen=True):
    next_seq: int
    fence: int
    batch: int
    stored_bytes: int
    is_truncated: bool
    is_closed: bool


class _HeadPosition(msgspec.Struct, frozen=True):
    fence: int
    batch: int


class _DeploymentHead(msgspec.Struct, frozen=True):
    deployment_id: str
    last_seq: int
    is_closed: bool


@dataclass(frozen=True, slots=True)
class Appended:
    """`entries` are the stored ones, numbered `first` to `last`; empty if nothing changed (then first = last + 1).

    `is_repeat`: the batch's number has been used before. `is_full`: no further lines will be stored.
    """

    first: int
    last: int
    entries: tuple[LogEntry, ...]
    is_repeat: bool = False
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class LogPage:
    """The next page starts from `position`, whether or not anything matched; there is one if `has_more`."""

    entries: list[NumberedEntry]
    position: int
    has_more: bool


class PostgresLogStore:
    """The LogStore on PostgreSQL. Safe from any thread; reads take a connection for each page.

    A row lock on the head makes commit order equal sequence order. Output beyond `maximum_bytes` is replaced by one
    LogTruncated, but status changes and the end are still stored. Reading raises Unavailable if the database, or the
    object store for an archived log, doesn't answer. Only a process that never reads may omit `archives`.
    """

    def __init__(
        self, database: Database, archives: ArchiveReader | None = None, *, maximum_bytes: int = MAXIMUM_LOG_BYTES
    ) -> None:
        self._database = database
        self._maximum_bytes = maximum_bytes
        self._codec = ChunkCodec()
        self._entries = StoredEntries(database, self._codec, archives)

    def append(
        self,
        connection: Connection,
        deployment_id: str,
        entries: Sequence[LogEntry],
        *,
        fence: int | None,
        batch: int = 0,
    ) -> tuple[int, int]:
        """See LogStore."""
        appended = self.append_batch(connection, deployment_id, entries, fence=fence, batch=batch)
        return appended.first, appended.last

    def append_batch(
        self,
        connection: Connection,
        deployment_id: str,
        entries: Sequence[LogEntry],
        *,
        fence: int | None,
        batch: int = 0,
    ) -> Appended:
        """As `append`, but returns what was stored: less than was given if the log is full."""
        head = self._lock_head(connection, deployment_id)
        if fence is not None and head.fence > fence:
            raise LeaseLost(f"A later worker writes the log of {deployment_id}.")
        first = head.next_seq
        is_repeat = batch > 0 and head.fence == fence and head.batch >= batch
        if head.is_closed or is_repeat:
            is_full = head.is_truncated or head.is_closed
            return Appended(first, first - 1, (), is_repeat=is_repeat, is_full=is_full)
        stored, size, is_truncated = self._fitting(entries, head)
        last = first + len(stored) - 1
        is_new_holder = fence is not None and fence > head.fence
        connection.execute(
            _ADVANCE_HEAD,
            {
                "id": deployment_id,
                "next": last + 1,
                "fence": fence if is_new_holder else head.fence,
                "batch": batch if is_new_holder or (batch and fence is not None) else head.batch,
                "bytes": size,
                "truncated": is_truncated,
                "closed": bool(stored) and isinstance(stored[-1], LogEnd),
            },
        )
        if stored:
            data = self._codec.encode(stored)
            parameters = {"id": deployment_id, "first": first, "last": last, "entries": data}
            connection.execute(_INSERT_CHUNK, parameters)
            record_changes(connection, deployment_id, stored)
        return Appended(first, last, tuple(stored), is_full=is_truncated)

    def last_batch(self, deployment_id: str, fence: int) -> int:
        """The number of the last batch stored under this fence, 0 for none. Raises LeaseLost for an old fence."""
        row = self._database.fetch_one(_HeadPosition, _POSITION, {"id": deployment_id})
        if row is None or row.fence < fence:
            return 0
        if row.fence > fence:
            raise LeaseLost(f"A later worker writes the log of {deployment_id}.")
        return row.batch

    def head(self, deployment_id: str) -> LogHead:
        """A deployment without a log has the head (0, open)."""
        return self._database.fetch_one(LogHead, _HEAD, {"id": deployment_id}) or LogHead(0, is_closed=False)

    def heads(self, deployment_ids: Sequence[str]) -> dict[str, LogHead]:
        """Heads by deployment; those without a log are missing."""
        rows = self._database.fetch_all(_DeploymentHead, _HEADS, {"ids": list(deployment_ids)})
        return {row.deployment_id: LogHead(row.last_seq, is_closed=row.is_closed) for row in rows}

    def read(
        self, deployment_id: str, *, after: int, limit: int, maximum_bytes: int = _PAGE_BYTES
    ) -> list[NumberedEntry]:
        """At most `limit` entries above `after`, in order. Fewer if they are large; empty only if there are no more."""
        page: list[NumberedEntry] = []
        size = 0
        for numbered in self._entries.forward(deployment_id, after):
            page.append(numbered)
            size += _size_of(numbered.entry)
            if len(page) >= limit or size >= maximum_bytes:
                break
        return page

    def read_lines(
        self, deployment_id: str, *, after: int | None, limit: int, stage: str | None = None, is_backward: bool = False
    ) -> LogPage:
        """Lines and the mark of truncation, of one stage or all.

        Forward: numbers above `after`, ascending. Backward: numbers below `after` (None: from the end), descending.
        """
        start = after if after is not None else (GREATEST_SEQ if is_backward else 0)
        found: list[NumberedEntry] = []
        position, size, scanned = start, 0, 0
        direction = self._entries.backward if is_backward else self._entries.forward
        for numbered in direction(deployment_id, start):
            if len(found) >= limit or size >= _PAGE_BYTES or scanned >= _SCANNED_ENTRIES:
                return LogPage(found, position, has_more=True)
            scanned += 1
            position = numbered.seq
            entry = numbered.entry
            is_line = isinstance(entry, LogLine) and (stage is None or entry.stage == stage)
            if is_line or (isinstance(entry, LogTruncated) and stage is None):
                found.append(numbered)
                size += _size_of(entry)
        return LogPage(found, position if scanned or after is not None else 0, has_more=False)

    def _lock_head(self, connection: Connection, deployment_id: str) -> _Head:
        row = connection.fetch_one(_Head, _LOCK_HEAD, {"id": deployment_id})
        if row is None:
            try:
                connection.execute(_CREATE_HEAD, {"id": deployment_id})
            except psycopg.errors.ForeignKeyViolation as error:
                raise NotFound("The deployment has been deleted.") from error
            row = connection.fetch_one(_Head, _LOCK_HEAD, {"id": deployment_id})
        if row is None:
            raise NotFound("The deployment has been deleted.")
        return row

    def _fitting(self, entries: Sequence[LogEntry], head: _Head) -> tuple[list[LogEntry], int, bool]:
        """What may be stored of the entries, the log's size afterwards, and whether it is full."""
        size, is_truncated = head.stored_bytes, head.is_truncated
        stored: list[LogEntry] = []
        for entry in entries:
            if isinstance(entry, LogLine):
                if is_truncated:
                    continue
                if size + _size_of(entry) > self._maximum_bytes:
                    is_truncated = True
                    stored.append(LogTruncated(timestamp=entry.timestamp))
                    continue
                size += _size_of(entry)
            stored.append(entry)
            if isinstance(entry, LogEnd):
                break
        return stored, size, is_truncated


def _size_of(entry: LogEntry) -> int:
    """The bytes that an entry counts towards the limits."""
    if not isinstance(entry, LogLine):
        return _LINE_OVERHEAD_BYTES
    text = entry.text
    return _LINE_OVERHEAD_BYTES + (len(text) if text.isascii() else len(text.encode()))
