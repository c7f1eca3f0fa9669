"""Walks through the entries of a log, wherever they are stored: in PostgreSQL's chunks or in an archive.

One transaction moves a finished log from the one to the other, so a reader that finds no chunks and then no archive
knows that there are no entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import msgspec

from shared.db.database import Database, Parameters
from shared.logs.archive.store import ArchiveReader, LogArchive
from shared.logs.base import NumberedEntry, numbered_above, numbered_below
from shared.logs.chunks import ChunkCodec

# Above the number of any entry, and far enough below the limit of bigint for additions.
GREATEST_SEQ = 2**62
_FIRST_CHUNKS, _CHUNKS_AT_ONCE = 4, 64

# Chunks don't overlap, so the greatest seq_from up to a number finds the chunk with that number, by the primary key.
_CHUNKS_FORWARD = """
  SELECT seq_from, seq_to, entries FROM log_chunks
  WHERE deployment_id = %(id)s AND seq_to > %(after)s AND seq_from >= COALESCE((
    SELECT max(seq_from) FROM log_chunks WHERE deployment_id = %(id)s AND seq_from <= %(after)s::bigint + 1), 0)
  ORDER BY seq_from LIMIT %(count)s"""
_CHUNKS_BACKWARD = """
  SELECT seq_from, seq_to, entries FROM log_chunks
  WHERE deployment_id = %(id)s AND seq_from < %(before)s
  ORDER BY seq_from DESC LIMIT %(count)s"""
_ARCHIVE = "SELECT object_key, last_seq, index_offset, index_length FROM log_archives WHERE deployment_id = %(id)s"


class _Chunk(msgspec.Struct, frozen=True):
    seq_from: int
    seq_to: int
    entries: bytes


class StoredEntries:
    """Safe from any thread. Takes a connection for each group of chunks, none while the object store is read.

    Raises Unavailable if the database, or the object store for an archived log, doesn't answer.
    """

    def __init__(self, database: Database, codec: ChunkCodec, archives: ArchiveReader | None) -> None:
        self._database = database
        self._codec = codec
        self._archives = archives

    def forward(self, deployment_id: str, after: int) -> Iterator[NumberedEntry]:
        """The entries above `after`, ascending."""
        after = min(after, GREATEST_SEQ)
        for count in _chunk_counts():
            chunks, archive = self._stored(_CHUNKS_FORWARD, {"id": deployment_id, "after": after, "count": count})
            if archive is not None:
                yield from self._archive_reader().forward(archive, after)
                return
            for chunk in chunks:
                yield from numbered_above(after, self._codec.decode(chunk.entries), chunk.seq_from)
                after = chunk.seq_to
            if len(chunks) < count:
                return

    def backward(self, deployment_id: str, before: int) -> Iterator[NumberedEntry]:
        """The entries below `before`, descending."""
        for count in _chunk_counts():
            chunks, archive = self._stored(_CHUNKS_BACKWARD, {"id": deployment_id, "before": before, "count": count})
            if archive is not None:
                yield from self._archive_reader().backward(archive, before)
                return
            for chunk in chunks:
                yield from numbered_below(before, self._codec.decode(chunk.entries), chunk.seq_from)
                before = chunk.seq_from
            if len(chunks) < count:
                return

    def _stored(self, query: LiteralString, parameters: Parameters) -> tuple[list[_Chunk], LogArchive | None]:
        """The next chunks, or the archive if there are none.

        In this order, a log that is moved between the two statements is found by the second. No connection is held
        while the object store is read.
        """
        with self._database.transaction() as connection:
            chunks = connection.fetch_all(_Chunk, query, parameters)
            if chunks:
                return chunks, None
            return [], connection.fetch_one(LogArchive, _ARCHIVE, parameters)

    def _archive_reader(self) -> ArchiveReader:
        if self._archives is None:
            raise RuntimeError("This process reads an archived log, so its log store needs an ArchiveReader.")
        return self._archives


def _chunk_counts() -> Iterator[int]:
    """How many chunks to read with each query: few at first, because chunks may be large and a page small."""
    count = _FIRST_CHUNKS
    while True:
        yield count
        count = min(4 * count, _CHUNKS_AT_ONCE)
