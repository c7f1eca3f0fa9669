"""Moves finished logs from PostgreSQL into the object store.

For each log: write its archive to a file, upload it, read the object back and compare, then in one transaction record
the object and delete the chunks. Until that commits the log is read from the chunks, so a crash at any step changes
nothing. The next attempt, or the removal of the deployment, finds an uploaded object by its name.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from datetime import datetime
from pathlib import Path

import msgspec
import structlog
import zstandard

from shared import metrics
from shared.clock import Clock, SystemClock
from shared.db.database import Database
from shared.errors import PlatformError, Unavailable
from shared.logs.archive.format import ArchiveDamaged, ArchiveSummary, ArchiveWriter, check_archive
from shared.logs.archive.store import ARCHIVES, archive_key, deployment_of
from shared.storage.base import ArtifactStore, ObjectNotFound

_log = structlog.get_logger(__name__)

# An arbitrary key of an advisory lock, which nothing else uses.
_LOCK = 0x636F6D706163746F
# Clients that watched a deployment end read its last lines from PostgreSQL.
_AFTER_SECONDS = 60.0
_INTERVAL_SECONDS = 10.0
# A pass ends after the first, so that the lock, which is lost after the second, is taken again.
_PASS_SECONDS = 300.0
_LOCK_SECONDS = 1800.0
_LOGS_AT_ONCE = 100
_CHUNKS_AT_ONCE = 64
# Before another attempt with a log that could not be moved.
_RETRY_SECONDS = 600.0
_FIRST_SWEEP_SECONDS = 3600.0
_SWEEP_SECONDS = 24 * 3600.0
_SWEPT_AT_ONCE = 1000

_DUE = """
  SELECT h.deployment_id FROM log_heads h
  WHERE h.is_closed AND NOT h.is_archived
    AND (h.closed_at IS NULL OR h.closed_at <= now() - make_interval(secs => %(after)s))
    AND h.deployment_id <> ALL(%(deferred)s)
  ORDER BY h.closed_at NULLS FIRST LIMIT %(count)s"""
_LOG = """
  SELECT d.tenant_id, COALESCE(d.deleting_at, p.deleting_at) AS deleting_at,
    h.next_seq - 1 AS last_seq, h.is_closed, h.is_archived
  FROM log_heads h JOIN deployments d ON d.id = h.deployment_id JOIN projects p ON p.id = d.project_id
  WHERE h.deployment_id = %(id)s"""
# The deployment's row first, as deletion does. Objects are removed after deleting_at is committed: a compactor that
# doesn't see it here records an object that the removal finds, and one that sees it deletes the object.
_LOCK_DEPLOYMENT = "SELECT id FROM deployments WHERE id = %(id)s FOR KEY SHARE"
_DELETING = """
  SELECT COALESCE(d.deleting_at, p.deleting_at) AS deleting_at
  FROM deployments d JOIN projects p ON p.id = d.project_id WHERE d.id = %(id)s"""
_LOCK_HEAD = """
  SELECT next_seq - 1 AS last_seq, is_closed, is_archived FROM log_heads
  WHERE deployment_id = %(id)s FOR UPDATE"""
_CHUNKS = """
  SELECT seq_from, seq_to, entries FROM log_chunks
  WHERE deployment_id = %(id)s AND seq_from >= %(first)s ORDER BY seq_from LIMIT %(count)s"""
_INSERT_ARCHIVE = """
  INSERT INTO log_archives (deployment_id, object_key, size_bytes, last_seq, digest, index_offset, index_length)
  VALUES (%(id)s, %(key)s, %(size)s, %(last_seq)s, %(digest)s, %(index_offset)s, %(index_length)s)"""
_ARCHIVED_KEY = "SELECT object_key FROM log_archives WHERE deployment_id = %(id)s"
_MARK_ARCHIVED = "UPDATE log_heads SET is_archived = true WHERE deployment_id = %(id)s"
_DELETE_CHUNKS = "DELETE FROM log_chunks WHERE deployment_id = %(id)s"
_IS_INCOMPLETE = "SELECT 1 FROM restores WHERE NOT is_complete"
_EXISTING = "SELECT id FROM deployments WHERE id = ANY(%(ids)s)"


class _Log(msgspec.Struct, frozen=True):
    tenant_id: str
    deleting_at: datetime | None
    last_seq: int
    is_closed: bool
    is_archived: bool


class _Deletion(msgspec.Struct, frozen=True):
    deleting_at: datetime | None


class _Head(msgspec.Struct, frozen=True):
    last_seq: int
    is_closed: bool
    is_archived: bool


class _Chunk(msgspec.Struct, frozen=True):
    seq_from: int
    seq_to: int
    entries: bytes


class LogDamaged(Exception):
    """PostgreSQL or the object store returned wrong data; the chunks are kept. The message tells the problem."""


class LogCompactor:
    """One thread runs `run`. Of several processes one works at a time.

    A log is moved once it has been closed for `after_seconds`. `directory` is for temporary files and belongs to the
    compactor, which deletes its content after a crash: at most two files of the size of the compressed log.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: ArtifactStore,
        directory: Path,
        after_seconds: float = _AFTER_SECONDS,
        interval_seconds: float = _INTERVAL_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._directory = directory
        self._after_seconds = after_seconds
        self._interval_seconds = interval_seconds
        self._clock = clock or SystemClock()
        self._raw_entries = msgspec.msgpack.Decoder(list[msgspec.Raw])
        # Logs that failed, and when each may be attempted again.
        self._deferred: dict[str, float] = {}
        self._sweep_at = self._clock.monotonic() + _FIRST_SWEEP_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Repeats passes until `stop` is set."""
        while not stop.is_set():
            try:
                with self._database.try_lock(_LOCK, maximum_seconds=_LOCK_SECONDS) as is_held:
                    if is_held:
                        self.run_once(stop)
            except (Unavailable, PlatformError, OSError) as error:
                _log.warning("log_compactor.pass_failed", error=str(error))
            except Exception:  # noqa: BLE001 - a failure must not prevent the next pass
                _log.exception("log_compactor.pass_crashed")
            stop.wait(self._interval_seconds)

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Moves the due logs, oldest first, for some minutes at most. Returns how many.

        Raises PlatformError, Unavailable, OSError.
        """
        stop = stop or threading.Event()
        end_at = self._clock.monotonic() + _PASS_SECONDS
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        moved = 0
        while not stop.is_set() and (due := self._due()):
            for deployment_id in due:
                if stop.is_set() or self._clock.monotonic() >= end_at:
                    return moved
                moved += self._attempt(deployment_id)
        if not stop.is_set() and self._clock.monotonic() >= self._sweep_at:
            self.sweep()
            self._sweep_at = self._clock.monotonic() + _SWEEP_SECONDS
        return moved

    def compact(self, deployment_id: str) -> bool:
        """Moves one log. Returns False if there is nothing to move. May be repeated, also after a crash.

        Raises LogDamaged, PlatformError, Unavailable and OSError; the log stays in PostgreSQL then.
        """
        row = self._database.fetch_one(_Log, _LOG, {"id": deployment_id})
        if row is None or row.deleting_at is not None or row.is_archived or not row.is_closed:
            return False
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            path = Path(directory) / "log.zst"
            summary, chunks = self._write(deployment_id, path)
            if summary.last_seq != row.last_seq:
                raise LogDamaged(f"its chunks end at {summary.last_seq}, its head says {row.last_seq}")
            key = archive_key(row.tenant_id, deployment_id, summary.digest)
            self._store.put_file(key, path)
            self._verify(key, summary, Path(directory) / "copy.zst")
        recorded_key = self._record(deployment_id, key, summary, chunks)
        if recorded_key != key:
            # The deployment was deleted in the meantime, or another compactor was faster.
            self._store.delete(key)
            return False
        _log.info("log_compactor.archived", deployment_id=deployment_id, size_bytes=summary.size_bytes)
        return True

    def sweep(self) -> int:
        """Deletes objects of deployments that no longer exist. Returns how many.

        Only a compactor that dies while a deployment is being removed leaves such objects. After a restore, those of
        deployments that the backup doesn't have stay until an operator knows that no newer backup is to be restored.
        """
        if self._database.exists(_IS_INCOMPLETE):
            _log.warning("log_compactor.sweep_held", reason="a restored backup is not complete")
            return 0
        keys = [key for key in self._store.list(ARCHIVES) if deployment_of(key) is not None]
        deleted = 0
        for begin in range(0, len(keys), _SWEPT_AT_ONCE):
            of_keys = {key: deployment_of(key) for key in keys[begin : begin + _SWEPT_AT_ONCE]}
            existing = set(self._database.fetch_values(str, _EXISTING, {"ids": list(set(of_keys.values()))}))
            for key, deployment_id in of_keys.items():
                if deployment_id not in existing:
                    self._store.delete(key)
                    deleted += 1
        if deleted:
            _log.warning("log_compactor.swept", objects=deleted)
        return deleted

    def _due(self) -> list[str]:
        now = self._clock.monotonic()
        self._deferred = {name: until for name, until in self._deferred.items() if until > now}
        parameters = {"after": self._after_seconds, "deferred": list(self._deferred), "count": _LOGS_AT_ONCE}
        return self._database.fetch_values(str, _DUE, parameters)

    def _attempt(self, deployment_id: str) -> bool:
        """Moves one log. A damaged log doesn't end the pass, but an outage does."""
        try:
            is_moved = self.compact(deployment_id)
        except (Unavailable, PlatformError, OSError):
            metrics.count_log_compaction("unavailable")
            self._defer(deployment_id)
            raise
        except Exception as error:  # noqa: BLE001 - the chunks are kept after any failure
            metrics.count_log_compaction("damaged")
            self._defer(deployment_id)
            is_expected = isinstance(error, LogDamaged)
            _log.error("log_compactor.damaged", deployment_id=deployment_id, error=str(error), exc_info=not is_expected)
            return False
        if not is_moved:
            # So that this pass doesn't select it again.
            self._defer(deployment_id)
        metrics.count_log_compaction("archived" if is_moved else "gone")
        return is_moved

    def _defer(self, deployment_id: str) -> None:
        self._deferred[deployment_id] = self._clock.monotonic() + _RETRY_SECONDS

    def _write(self, deployment_id: str, path: Path) -> tuple[ArchiveSummary, int]:
        """Writes the chunks' entries as an archive. Returns its summary and the number of chunks. Raises LogDamaged."""
        decompressor = zstandard.ZstdDecompressor()
        count = 0
        with path.open("wb") as file:
            writer = ArchiveWriter(file)
            while chunks := self._chunks(deployment_id, writer.last_seq + 1):
                for chunk in chunks:
                    if chunk.seq_from != writer.last_seq + 1:
                        raise LogDamaged(f"entries {writer.last_seq + 1} to {chunk.seq_from - 1} are missing")
                    try:
                        writer.add(self._raw_entries.decode(decompressor.decompress(chunk.entries)))
                    except (zstandard.ZstdError, msgspec.DecodeError) as error:
                        raise LogDamaged(f"the chunk of entry {chunk.seq_from} can't be read: {error}") from error
                    if writer.last_seq != chunk.seq_to:
                        raise LogDamaged(f"the chunk of entry {chunk.seq_from} has too many or too few entries")
                count += len(chunks)
            if count == 0:
                raise LogDamaged("it has no chunks")
            return writer.finish(), count

    def _chunks(self, deployment_id: str, first: int) -> list[_Chunk]:
        return self._database.fetch_all(
            _Chunk, _CHUNKS, {"id": deployment_id, "first": first, "count": _CHUNKS_AT_ONCE}
        )

    def _verify(self, key: str, expected: ArchiveSummary, copy: Path) -> None:
        """Raises LogDamaged unless the store returns exactly what was written."""
        try:
            self._store.get_file(key, copy)
            found = check_archive(copy)
        except (ObjectNotFound, ArchiveDamaged) as error:
            raise LogDamaged(f"the object can't be read back: {error}") from error
        if found != expected:
            raise LogDamaged("the object that was read back differs from the one that was written")

    def _record(self, deployment_id: str, key: str, summary: ArchiveSummary, chunks: int) -> str | None:
        """Replaces the chunks by the object. Returns the key of the log's object, or None for a deleted log."""
        parameters = {
            "id": deployment_id,
            "key": key,
            "size": summary.size_bytes,
            "last_seq": summary.last_seq,
            "digest": summary.digest,
            "index_offset": summary.index_offset,
            "index_length": summary.index_length,
        }
        with self._database.transaction() as connection:
            connection.execute(_LOCK_DEPLOYMENT, parameters)
            deployment = connection.fetch_one(_Deletion, _DELETING, parameters)
            head = connection.fetch_one(_Head, _LOCK_HEAD, parameters)
            if deployment is None or deployment.deleting_at is not None or head is None:
                return None
            if head.is_archived:
                return connection.fetch_value(str, _ARCHIVED_KEY, parameters)
            if not head.is_closed or head.last_seq != summary.last_seq:
                raise LogDamaged("it was changed while it was read")
            connection.execute(_INSERT_ARCHIVE, parameters)
            connection.execute(_MARK_ARCHIVED, parameters)
            deleted = connection.execute(_DELETE_CHUNKS, parameters).rowcount
            if deleted != chunks:
                raise LogDamaged(f"it has {deleted} chunks, of which {chunks} were read")
        return key
