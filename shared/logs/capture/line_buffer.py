"""Buffers lines between a command and the store, and decides when a batch is due and what it contains. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from schemas.logs import LogLine, Stream
from shared.logs.capture.splitter import SplitLine

# A batch is due after this long without new output, this long after its first line, or at this size.
_QUIET_SECONDS = 0.05
_DELAY_SECONDS = 0.1
_BATCH_BYTES = 32 * 1024
# Lines that accumulated while the store was busy are stored in larger batches.
_MAXIMUM_BATCH_BYTES = 256 * 1024
# What a line counts in addition to its text, for the size of batches and in memory.
_LINE_BYTES = 16
_LINE_MEMORY_BYTES = 200


class LineGroup(msgspec.Struct, frozen=True):
    """Lines that are buffered and stored together. `size` counts for batches, `memory` for the buffer's bound."""

    lines: list[LogLine]
    size: int

    @property
    def memory(self) -> int:
        return self.size + len(self.lines) * (_LINE_MEMORY_BYTES - _LINE_BYTES)


def group_lines(lines: list[SplitLine], *, timestamp: int, stage: str, stream: Stream) -> list[LineGroup]:
    """Divides the lines into groups of about the size of a batch at most."""
    groups: list[LineGroup] = []
    packed: list[LogLine] = []
    size = 0
    for line in lines:
        text = line.text
        packed.append(LogLine(timestamp=timestamp, stage=stage, stream=stream, text=text, continued=line.continued))
        size += len(text) + _LINE_BYTES
        if size >= _BATCH_BYTES:
            groups.append(LineGroup(packed, size))
            packed, size = [], 0
    if packed:
        groups.append(LineGroup(packed, size))
    return groups


class LineBuffer:
    """A queue of line groups. Times are monotonic seconds. Not thread-safe: its writer holds a lock."""

    def __init__(self) -> None:
        self._groups: deque[LineGroup] = deque()
        self._size = 0
        self._first_at = 0.0
        self._last_at = 0.0
        self.memory = 0

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def is_large(self) -> bool:
        """Whether a batch is due because of its size."""
        return self._size >= _BATCH_BYTES

    def append(self, group: LineGroup, now: float) -> None:
        if not self._groups:
            self._first_at = now
        self._last_at = now
        self._groups.append(group)
        self._size += group.size
        self.memory += group.memory

    def due_at(self) -> float | None:
        """When the next batch is due because of its age; None if the buffer is empty."""
        return min(self._last_at + _QUIET_SECONDS, self._first_at + _DELAY_SECONDS) if self._groups else None

    def batch(self) -> list[LineGroup]:
        """The groups to store next. They stay in the buffer until `remove`, so that a failed attempt loses nothing."""
        batch: list[LineGroup] = []
        size = 0
        for group in self._groups:
            batch.append(group)
            size += group.size
            if size >= _MAXIMUM_BATCH_BYTES:
                break
        return batch

    def remove(self, batch: list[LineGroup], now: float) -> None:
        """Removes a stored batch, which consists of the oldest groups."""
        for group in batch:
            self._groups.popleft()
            self._size -= group.size
            self.memory -= group.memory
        self._first_at = now

    def clear(self) -> None:
        self._groups.clear()
        self._size = self.memory = 0
