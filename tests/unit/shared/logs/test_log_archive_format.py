"""The object of a finished log, by itself."""

from __future__ import annotations

import io
import random
import tempfile
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.logs import LogEnd, LogEntry, LogLine, LogStatus, LogTruncated
from shared.logs.archive.format import (
    ArchiveDamaged,
    ArchiveSummary,
    ArchiveWriter,
    check_archive,
    decode_frame,
    decode_index,
)


def entries_of_every_kind(lines: int, seed: int = 1) -> list[LogEntry]:
    generator = random.Random(seed)
    entries: list[LogEntry] = [LogStatus(timestamp=2**41, status="cloning", stage="clone", attempt=2)]
    for number in range(lines):
        text = f"{number} " + "".join(generator.choices("abcdefghij \x1b\0ü🚀\u2028", k=generator.randint(0, 300)))
        entries.append(LogLine(timestamp=number, stage="build", stream="stderr", text=text, continued=number % 7 == 0))
    entries += [LogTruncated(timestamp=5), LogStatus(timestamp=6, status="failed")]
    error: dict[str, str | None] = {"code": "COMMAND_FAILED", "stage": "build", "message": "It ended with 1."}
    return [*entries, LogEnd(timestamp=7, status="failed", error=error)]


def finished(entries: list[LogEntry], batch: int = 50) -> tuple[bytes, ArchiveSummary]:
    file = io.BytesIO()
    writer = ArchiveWriter(file)
    for begin in range(0, len(entries), batch):
        writer.add([msgspec.Raw(msgspec.msgpack.encode(entry)) for entry in entries[begin : begin + batch]])
    summary = writer.finish()
    return file.getvalue(), summary


def read_back(data: bytes, summary: ArchiveSummary) -> list[LogEntry]:
    index = decode_index(data[summary.index_offset : summary.index_offset + summary.index_length])
    entries: list[LogEntry] = []
    for frame in index.frames:
        assert frame.seq_from == len(entries) + 1
        entries += decode_frame(frame, data[frame.offset : frame.offset + frame.length])
        assert frame.seq_to == len(entries)
    return entries


def checked(data: bytes) -> ArchiveSummary:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return check_archive(Path(file.name))


@pytest.mark.parametrize("lines", [0, 1, 900, 20_000])
def test_entries_come_back_as_they_were(lines: int) -> None:
    entries = entries_of_every_kind(lines)
    data, summary = finished(entries)
    assert read_back(data, summary) == entries
    assert (summary.last_seq, summary.size_bytes) == (len(entries), len(data))
    assert checked(data) == summary


def test_the_same_entries_make_the_same_object_however_they_come() -> None:
    entries = entries_of_every_kind(3000)
    assert finished(entries, batch=1) == finished(entries, batch=999)


def test_zstd_gives_all_entries_and_passes_over_the_index() -> None:
    entries = entries_of_every_kind(5000)
    data, _ = finished(entries)
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        content = reader.read()
    assert content == b"".join(msgspec.msgpack.encode(entry) for entry in entries)


def test_frames_are_small_enough_to_be_read_one_by_one() -> None:
    data, summary = finished(entries_of_every_kind(20_000))
    index = decode_index(data[summary.index_offset :])
    assert len(index.frames) > 5
    assert all(256 * 1024 <= frame.content_length < 258 * 1024 for frame in index.frames[:-1])
    assert [index.find(frame.seq_from) for frame in index.frames] == list(range(len(index.frames)))
    assert [index.find(frame.seq_to) for frame in index.frames] == list(range(len(index.frames)))
    assert index.find(0) == 0
    assert index.find(summary.last_seq + 1) == len(index.frames)


def test_a_log_without_entries_has_no_archive() -> None:
    with pytest.raises(ValueError, match="without entries"):
        ArchiveWriter(io.BytesIO()).finish()


DATA, SUMMARY = finished(entries_of_every_kind(3000))


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(place: int, bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= 1 << bit
    try:
        found = checked(bytes(damaged))
    except ArchiveDamaged:
        return
    # A bit without a meaning, such as a reserved one: the entries are the same, but the object isn't.
    assert found.digest != SUMMARY.digest
    assert found.content_digest == SUMMARY.content_digest


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, len(DATA) - 1))
def test_no_missing_end_goes_unnoticed(length: int) -> None:
    with pytest.raises(ArchiveDamaged):
        checked(DATA[:length])


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_a_malformed_index_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveDamaged):
        decode_index(data)


def test_a_missing_frame_is_damage() -> None:
    first = decode_index(DATA[SUMMARY.index_offset :]).frames[0]
    with pytest.raises(ArchiveDamaged):
        checked(DATA[first.length :])
    with pytest.raises(ArchiveDamaged):
        decode_frame(first, DATA[: first.length - 1])
