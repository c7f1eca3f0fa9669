"""Entries of a deployment's log: one sequence holds lines, status changes and the end."""

from __future__ import annotations

from typing import Literal

import msgspec

Stream = Literal["stdout", "stderr", "system"]


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="log", tag_field="kind"):
    """`timestamp` is Unix time in milliseconds. `continued`: the line continues in the next entry (64 KiB limit)."""

    timestamp: int
    stage: str
    stream: Stream
    text: str
    continued: bool = False


class LogStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="status", tag_field="kind"):
    timestamp: int
    status: str
    stage: str | None = None
    attempt: int | None = None


class LogTruncated(msgspec.Struct, frozen=True, kw_only=True, tag="truncated", tag_field="kind"):
    """The size limit of a deployment's log was reached here; later output is not stored."""

    timestamp: int


class LogEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="end", tag_field="kind"):
    """The last entry; nothing may follow it. `error` is {"code", "stage", "message"}, `ignored` why none was built."""

    timestamp: int
    status: str
    url: str | None = None
    error: dict[str, str | None] | None = None
    ignored: str | None = None


LogEntry = LogLine | LogStatus | LogTruncated | LogEnd
