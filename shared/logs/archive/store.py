"""Finished logs in the object store: where they are, how they are read, how they are removed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import msgspec
import structlog

from schemas.logs import LogEntry, LogLine
from shared.clock import Clock, SystemClock
from shared.errors import PlatformError, Unavailable
from shared.logs.archive.format import ArchiveDamaged, ArchiveIndex, Frame, decode_frame, decode_index
from shared.logs.base import NumberedEntry, numbered_above, numbered_below
from shared.storage.base import ArtifactStore, ObjectNotFound

T = TypeVar("T")

_log = structlog.get_logger(__name__)

ARCHIVES = "logs/"
# Decoded frames are kept up to this size in all; streams at different places of one log share them.
_CACHE_BYTES = 32 * 1024 * 1024
_INDEX_CACHE_BYTES = 4 * 1024 * 1024
# What an entry costs in memory beside its text, and a frame in an index.
_ENTRY_OVERHEAD_BYTES = 250
_FRAME_OVERHEAD_BYTES = 250
# Who reads one frame after the other gets so many at once: a request costs more than its bytes.
_READ_AHEAD_FRAMES = 4
# The last so many bytes come with the index: all of most logs, and of the others what their readers begin with who ask
# for the last lines.
_TAIL_BYTES = 64 * 1024
# After a failure one request at a time is made, so long after the one before, whoever asks: others would only wait for
# the same failure, in threads that those who watch live logs need too.
_REST_SECONDS = 2.0


class LogArchive(msgspec.Struct, frozen=True):
    """A row of log_archives: the object holds entries 1 to `last_seq`, and its index the last `index_length` bytes."""

    object_key: str
    last_seq: int
    index_offset: int
    index_length: int


def archive_key(tenant_id: str, deployment_id: str, digest: str) -> str:
    """The digest of the object is in its name: a compaction that is repeated can't change what a row refers to."""
    return f"{_prefix(tenant_id, deployment_id)}{digest[:32]}.zst"


def deployment_of(key: str) -> str | None:
    """The deployment whose log the object holds; None for a key that isn't one of `archive_key`."""
    parts = key.split("/")
    return parts[2] if key.startswith(ARCHIVES) and len(parts) == 4 else None


class LogArchiveRemover:
    """Removes what the object store holds of a deployment's log."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def remove(self, tenant_id: str, deployment_id: str) -> None:
        """May be repeated. Raises PlatformError."""
        for key in self._store.list(_prefix(tenant_id, deployment_id)):
            self._store.delete(key)


class ArchiveReader:
    """Entries of archived logs. Safe from any thread.

    Raises Unavailable while the object store doesn't answer. Entries that are lost for good (the object was removed, or
    is damaged) are left out, as those that nobody keeps any more: whoever reads sees it by their missing numbers.
    """

    def __init__(self, store: ArtifactStore, *, cache_bytes: int = _CACHE_BYTES, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        # None while the store answers.
        self._asked_again_at: float | None = None
        self._is_asking_again = False
        self._indexes: _Cache[ArchiveIndex] = _Cache(min(cache_bytes, _INDEX_CACHE_BYTES))
        self._entries: _Cache[list[LogEntry]] = _Cache(cache_bytes)

    def forward(self, archive: LogArchive, after: int) -> Iterator[NumberedEntry]:
        """Entries above `after`, ascending."""
        index = self._index(archive)
        if index is None:
            return
        for number in range(index.find(after + 1), len(index.frames)):
            entries = self._entries_of(archive, index, number, step=1)
            yield from numbered_above(after, entries, index.frames[number].seq_from)

    def backward(self, archive: LogArchive, before: int) -> Iterator[NumberedEntry]:
        """Entries below `before`, descending."""
        index = self._index(archive)
        if index is None or before <= 1:
            return
        for number in range(min(index.find(before - 1), len(index.frames) - 1), -1, -1):
            entries = self._entries_of(archive, index, number, step=-1)
            yield from numbered_below(before, entries, index.frames[number].seq_from)

    def _index(self, archive: LogArchive) -> ArchiveIndex | None:
        """None when it is lost."""
        index = self._indexes.get(archive.object_key)
        if index is not None:
            return index
        size = archive.index_offset + archive.index_length
        begin = max(0, min(archive.index_offset, size - _TAIL_BYTES))
        data = self._fetch(archive, begin, size - begin)
        if data is None:
            return None
        try:
            index = decode_index(data[archive.index_offset - begin :])
        except ArchiveDamaged as error:
            _log.error("log_archive.damaged", object_key=archive.object_key, error=str(error))
            return None
        self._indexes.put(archive.object_key, index, len(index.frames) * _FRAME_OVERHEAD_BYTES)
        for number, frame in enumerate(index.frames):
            if frame.offset >= begin:
                self._keep(archive, number, frame, data[frame.offset - begin :])
        return index

    def _entries_of(self, archive: LogArchive, index: ArchiveIndex, number: int, *, step: int) -> list[LogEntry]:
        """A frame's entries; none when they are lost. Nothing that is lost is remembered: it may be put back."""
        key = archive.object_key
        entries = self._entries.get((key, number))
        if entries is not None:
            return entries
        count = _READ_AHEAD_FRAMES if (key, number - step) in self._entries else 1
        edge = min(max(number + step * (count - 1), 0), len(index.frames) - 1)
        frames = index.frames[min(number, edge) : max(number, edge) + 1]
        data = self._fetch(archive, frames[0].offset, sum(frame.length for frame in frames))
        if data is None:
            return []
        kept = [
            self._keep(archive, place, frame, data[frame.offset - frames[0].offset :])
            for place, frame in enumerate(frames, start=min(number, edge))
        ]
        return kept[number - min(number, edge)]

    def _keep(self, archive: LogArchive, number: int, frame: Frame, data: bytes) -> list[LogEntry]:
        """Decodes the frame that the data begins with, and puts it into the cache."""
        try:
            entries = decode_frame(frame, data[: frame.length])
        except ArchiveDamaged as error:
            _log.error("log_archive.damaged", object_key=archive.object_key, error=str(error))
            return []
        self._entries.put((archive.object_key, number), entries, _size_of(entries))
        return entries

    def _fetch(self, archive: LogArchive, offset: int, length: int) -> bytes | None:
        """None when there is no such object."""
        data: bytes | None = None
        with self._request():
            try:
                data = self._store.get_range(archive.object_key, offset, length)
            except ObjectNotFound:
                _log.error("log_archive.missing", object_key=archive.object_key)
        return data

    @contextmanager
    def _request(self) -> Generator[None]:
        """Raises Unavailable: at once while the store is known not to answer, and for a PlatformError of the block."""
        unavailable = Unavailable(
            "The object store, which keeps this log, does not answer; try again in a few seconds."
        )
        with self._lock:
            is_again = self._asked_again_at is not None
            if self._asked_again_at is not None:
                if self._is_asking_again or self._clock.monotonic() < self._asked_again_at:
                    raise unavailable
                self._is_asking_again = True
        asked_again_at: float | None = self._clock.monotonic() + _REST_SECONDS
        try:
            yield
            asked_again_at = None
        except PlatformError as error:
            asked_again_at = self._clock.monotonic() + _REST_SECONDS
            raise unavailable from error
        finally:
            with self._lock:
                self._asked_again_at = asked_again_at
                if is_again:
                    self._is_asking_again = False


class _Cache(Generic[T]):
    """The values used last, up to a size in all. Safe from any thread."""

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._bytes = 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: T, size: int) -> None:
        with self._lock:
            _, size_before = self._values.pop(key, (None, 0))
            self._values[key] = (value, size)
            self._bytes += size - size_before
            while self._bytes > self._maximum_bytes:
                _, (_, size) = self._values.popitem(last=False)
                self._bytes -= size


def _prefix(tenant_id: str, deployment_id: str) -> str:
    return f"{ARCHIVES}{tenant_id}/{deployment_id}/"


def _size_of(entries: Sequence[LogEntry]) -> int:
    """More or less what they take in memory."""
    texts = sum(len(entry.text) for entry in entries if isinstance(entry, LogLine))
    return texts + len(entries) * _ENTRY_OVERHEAD_BYTES
