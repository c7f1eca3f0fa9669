"""The format of the object that holds a finished log. Pure.

    frame | frame | … | index

A frame is an independent zstd frame (RFC 8878, with its content size and checksum). Its content is at least 256 KiB
(less in the last one) of entries as msgpack maps, one after the other, as `schemas.logs` encodes them. The index is a
skippable frame (RFC 8878, 3.1.2), which zstd ignores: `zstd -d` of the object returns all entries of the log.

    index    magic 0x184D2A5C u32, size of what follows u32, rows, trailer
    row      seq_from u64, seq_to u64, offset u64, length u32, content length u32      one for each frame
    trailer  last_seq u64, count of rows u32, CRC-32 of the rows u32, b"CLDYLOG1"      the last 24 bytes

All numbers are little-endian; offsets count from the start of the object. Rows are in order and without gaps: the first
starts at entry 1 and offset 0, the last ends at last_seq and at the start of the index.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard

from schemas.logs import LogEntry

_CONTENT_BYTES = 256 * 1024
# A frame's content exceeds _CONTENT_BYTES by one entry at most; a damaged length must not exhaust the memory.
_MAXIMUM_CONTENT_BYTES = 64 * 1024 * 1024
# Higher levels take twice the time for a twentieth less.
_LEVEL = 3

_MAGIC = 0x184D2A5C
_SIGNATURE = b"CLDYLOG1"
_HEADER = struct.Struct("<II")
_ROW = struct.Struct("<QQQII")
_TRAILER = struct.Struct("<QII8s")

_ENTRIES = msgspec.msgpack.Decoder(list[LogEntry])


class ArchiveDamaged(Exception):
    """The object has changed since it was written. The message tells the problem."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Entries `seq_from` to `seq_to` are `length` bytes at `offset`, `content_length` uncompressed."""

    seq_from: int
    seq_to: int
    offset: int
    length: int
    content_length: int


@dataclass(frozen=True, slots=True)
class ArchiveSummary:
    """`digest` is the SHA-256 of the whole object, `content_digest` that of the uncompressed entries."""

    last_seq: int
    size_bytes: int
    digest: str
    content_digest: str
    index_offset: int
    index_length: int


class ArchiveIndex:
    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = tuple(frames)
        self._ends = [frame.seq_to for frame in frames]

    def find(self, seq: int) -> int:
        """The index of the first frame that ends at or after `seq`, or the number of frames if none does."""
        return bisect_left(self._ends, seq)


class ArchiveWriter:
    """Writes an archive to an empty file that is open for writing. Not safe from several threads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
        self._content = bytearray()
        self._frames: list[Frame] = []
        self._offset = 0
        self._written_seq = 0
        self.last_seq = 0
        self._digest = hashlib.sha256()
        self._content_digest = hashlib.sha256()

    def add(self, entries: Iterable[msgspec.Raw]) -> None:
        """Appends encoded entries."""
        for entry in entries:
            self._content += entry
            self.last_seq += 1
            if len(self._content) >= _CONTENT_BYTES:
                self._end_frame()

    def finish(self) -> ArchiveSummary:
        """Writes the last frame and the index; the caller closes the file. Raises ValueError without an entry."""
        if self._content:
            self._end_frame()
        index_offset = self._offset
        index = _encode_index(self._frames)
        self._write(index)
        return ArchiveSummary(
            last_seq=self.last_seq,
            size_bytes=self._offset,
            digest=self._digest.hexdigest(),
            content_digest=self._content_digest.hexdigest(),
            index_offset=index_offset,
            index_length=len(index),
        )

    def _end_frame(self) -> None:
        content = bytes(self._content)
        data = self._compressor.compress(content)
        self._frames.append(Frame(self._written_seq + 1, self.last_seq, self._offset, len(data), len(content)))
        self._content_digest.update(content)
        self._write(data)
        self._written_seq = self.last_seq
        self._content.clear()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._offset += len(data)


def decode_index(data: bytes) -> ArchiveIndex:
    """Decodes and checks an index. Raises ArchiveDamaged."""
    if len(data) < _HEADER.size + _ROW.size + _TRAILER.size:
        raise ArchiveDamaged("the index is too short")
    magic, size = _HEADER.unpack_from(data)
    rows = data[_HEADER.size : -_TRAILER.size]
    last_seq, count, checksum, signature = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
    if magic != _MAGIC or signature != _SIGNATURE or size != len(data) - _HEADER.size:
        raise ArchiveDamaged("there is no index where one should be")
    if len(rows) != count * _ROW.size or zlib.crc32(rows) != checksum:
        raise ArchiveDamaged("the index doesn't match its checksum")
    frames = [Frame(*row) for row in _ROW.iter_unpack(rows)]
    beginning = Frame(1, 0, 0, 0, 0)
    for before, frame in itertools.pairwise([beginning, *frames]):
        is_next = frame.seq_from == before.seq_to + 1 and frame.offset == before.offset + before.length
        if not is_next or frame.seq_to < frame.seq_from:
            raise ArchiveDamaged(f"the index has a gap before entry {frame.seq_from}")
    if frames[-1].seq_to != last_seq:
        raise ArchiveDamaged("the index doesn't reach the end of the log")
    return ArchiveIndex(frames)


def decode_frame(frame: Frame, data: bytes) -> list[LogEntry]:
    """Decodes the entries of a frame. Raises ArchiveDamaged."""
    return _decode(frame, _decompress(frame, data))


def check_archive(path: Path) -> ArchiveSummary:
    """Reads a whole archive. Raises ArchiveDamaged unless every entry can be decoded and no number is missing."""
    digest, content_digest = hashlib.sha256(), hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        index_data, index_offset = _read_index(file, size)
        index = decode_index(index_data)
        file.seek(0)
        for frame in index.frames:
            data = file.read(frame.length)
            content = _decompress(frame, data)
            _decode(frame, content)
            digest.update(data)
            content_digest.update(content)
        if file.tell() != index_offset:
            raise ArchiveDamaged("the index doesn't follow the last frame")
        digest.update(index_data)
    return ArchiveSummary(
        last_seq=index.frames[-1].seq_to,
        size_bytes=size,
        digest=digest.hexdigest(),
        content_digest=content_digest.hexdigest(),
        index_offset=index_offset,
        index_length=len(index_data),
    )


def _encode_index(frames: Sequence[Frame]) -> bytes:
    if not frames:
        raise ValueError("a log without entries has no archive")
    rows = b"".join(
        _ROW.pack(frame.seq_from, frame.seq_to, frame.offset, frame.length, frame.content_length) for frame in frames
    )
    trailer = _TRAILER.pack(frames[-1].seq_to, len(frames), zlib.crc32(rows), _SIGNATURE)
    return _HEADER.pack(_MAGIC, len(rows) + len(trailer)) + rows + trailer


def _read_index(file: BinaryIO, size: int) -> tuple[bytes, int]:
    """The index's bytes and offset, found from the end of the object."""
    if size < _TRAILER.size:
        raise ArchiveDamaged("the object is too short")
    file.seek(size - _TRAILER.size)
    _, count, _, signature = _TRAILER.unpack(file.read(_TRAILER.size))
    offset = size - _TRAILER.size - count * _ROW.size - _HEADER.size
    if signature != _SIGNATURE or offset < 0:
        raise ArchiveDamaged("the object has no index at its end")
    file.seek(offset)
    return file.read(), offset


def _decompress(frame: Frame, data: bytes) -> bytes:
    if len(data) != frame.length or frame.content_length > _MAXIMUM_CONTENT_BYTES:
        raise ArchiveDamaged(f"entries {frame.seq_from} to {frame.seq_to} are incomplete")
    try:
        if zstandard.frame_content_size(data) != frame.content_length:
            raise ArchiveDamaged(f"entries {frame.seq_from} to {frame.seq_to} have the wrong size")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise ArchiveDamaged(f"entries {frame.seq_from} to {frame.seq_to} can't be decompressed: {error}") from error


def _decode(frame: Frame, content: bytes) -> list[LogEntry]:
    # As a msgpack array: its header (array 32) and the entries.
    count = frame.seq_to - frame.seq_from + 1
    try:
        return _ENTRIES.decode(b"\xdd" + count.to_bytes(4, "big") + content)
    except (msgspec.DecodeError, OverflowError) as error:
        raise ArchiveDamaged(f"entries {frame.seq_from} to {frame.seq_to} can't be read: {error}") from error
