"""Entries of a log as server-sent events. Pure. JSON has no raw CR or LF, so no line can forge a field."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from schemas.logs import LogEnd, LogLine, LogStatus, LogTruncated
from shared.logs.base import NumberedEntry

MAXIMUM_LINES = 100
HEARTBEAT = b": hb\n\n"

ReconnectReason = Literal["shutdown", "max_age", "revoked", "slow"]


@dataclass(frozen=True, slots=True)
class EncodedEntry:
    """`data` is JSON: of a line for the event `log`, of the whole event otherwise."""

    seq: int
    event: str
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


def encode_entry(numbered: NumberedEntry) -> EncodedEntry:
    seq, entry = numbered.seq, numbered.entry
    match entry:
        case LogLine():
            return EncodedEntry(seq, "log", _json(_line(seq, entry)))
        case LogStatus():
            fields = {"seq": seq, "status": entry.status, "stage": entry.stage, "attempt": entry.attempt}
            return EncodedEntry(seq, "status", _json(fields))
        case LogTruncated():
            return EncodedEntry(seq, "gap", _json({"from": seq, "to": seq, "reason": "truncated"}))
        case LogEnd():
            end: dict[str, object] = {"status": entry.status, "seq": seq}
            if entry.url is not None:
                end["url"] = entry.url
            if entry.error is not None:
                end["error"] = entry.error
            if entry.ignored is not None:
                end["ignored"] = entry.ignored
            return EncodedEntry(seq, "end", _json(end))


def frames(entries: Iterable[EncodedEntry]) -> bytes:
    """Events for entries in order; lines that follow each other share events of up to 100."""
    parts: list[bytes] = []
    lines: list[EncodedEntry] = []
    for entry in entries:
        if entry.event == "log":
            lines.append(entry)
            if len(lines) < MAXIMUM_LINES:
                continue
        if lines:
            parts.append(_lines_frame(lines))
            lines = []
        if entry.event != "log":
            parts.append(_frame(entry.seq, entry.event, entry.data))
    if lines:
        parts.append(_lines_frame(lines))
    return b"".join(parts)


def gap_frame(first: int, last: int) -> bytes:
    """An event for entries that are no longer stored."""
    return _frame(last, "gap", _json({"from": first, "to": last, "reason": "retention"}))


def queue_position_frame(seq: int, position: int) -> bytes:
    """A position in the queue is not an entry of the log: without an id, it doesn't move the client's position."""
    fields = {"seq": seq, "status": "queued", "stage": None, "attempt": None, "queuePosition": position}
    return _frame(None, "status", _json(fields))


def reconnect_frame(reason: ReconnectReason) -> bytes:
    return _frame(None, "reconnect", _json({"reason": reason}))


def retry_frame() -> bytes:
    """Jittered, so that the clients of a stopped server don't all reconnect at the same moment."""
    return b"retry: %d\n\n" % random.randint(1000, 5000)  # noqa: S311  jitter


def _line(seq: int, entry: LogLine) -> dict[str, object]:
    fields: dict[str, object] = {
        "seq": seq,
        "ts": entry.timestamp,
        "stage": entry.stage,
        "stream": entry.stream,
        "text": entry.text,
    }
    if entry.continued:
        fields["continued"] = True
    return fields


def _lines_frame(lines: list[EncodedEntry]) -> bytes:
    return _frame(lines[-1].seq, "log", b'{"lines":[' + b",".join(line.data for line in lines) + b"]}")


def _frame(seq: int | None, event: str, data: bytes) -> bytes:
    identifier = b"" if seq is None else b"id: %d\n" % seq
    return b"%sevent: %s\ndata: %s\n\n" % (identifier, event.encode(), data)


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
