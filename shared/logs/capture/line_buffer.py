"""Lines on their way from a command to the store: how much waits, when a batch is due, and what it holds. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from schemas.logs import LogLine, Stream
from shared.logs.capture.splitter import SplitLine

# A batch goes out after so long without new output, or so long after its first line, or at this size.
_QUIET_SECONDS = 0.05
_DELAY_SECONDS = 0.1
_BATCH_BYTES = 32 * 1024
# What piled up while the store was busy goes in larger batches.
_MAXIMUM_BATCH_BYTES = 256 * 1024
# What a line counts beside its text, in a batch and in memory.
_LINE_BYTES = 16
_LINE_MEMORY_BYTES = 200


class LineGroup(msgspec.Struct, frozen=True):
    """Some lines that wait and go out together. `size` is for the size of batches, `memory` for the buffer's bound."""

    lines: list[LogLine]
    size: int

    @property
    def memory(self) -> int:
        return self.size + len(self.lines) * (_LINE_MEMORY_BYTES - _LINE_BYTES)


def group_lines(lines: list[SplitLine], *, timestamp: int, stage: str, stream: Stream) -> list[LineGroup]:
    """The lines in groups of at most about a batch."""
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
    """A queue of groups. Times are monotonic seconds. Not thread-safe: its writer has the lock."""

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
        """Whether a batch is due for its size."""
        return self._size >= _BATCH_BYTES

    def append(self, group: LineGroup, now: float) -> None:
        if not self._groups:
            self._first_at = now
        self._last_at = now
        self._groups.append(group)
        self._size += group.size
        self.memory += group.memory

    def due_at(self) -> float | None:
        """When the next batch is due for its age; None when nothing waits."""
        return min(self._last_at + _QUIET_SECONDS, self._first_at + _DELAY_SECONDS) if self._groups else None

    def batch(self) -> list[LineGroup]:
        """What is to be stored next. It stays here until `remove`, so that nothing is lost with a failed try."""
        batch: list[LineGroup] = []
        size = 0
        for group in self._groups:
            batch.append(group)
            size += group.size
            if size >= _MAXIMUM_BATCH_BYTES:
                break
        return batch

    def remove(self, batch: list[LineGroup], now: float) -> None:
        """Takes a stored batch out, the oldest groups of which it consists."""
        for group in batch:
            self._groups.popleft()
            self._size -= group.size
            self.memory -= group.memory
        self._first_at = now

    def clear(self) -> None:
        self._groups.clear()
        self._size = self.memory = 0
