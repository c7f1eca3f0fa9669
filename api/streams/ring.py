"""The newest entries of a numbered sequence, in memory."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Generic, Protocol, TypeVar


class Numbered(Protocol):
    @property
    def seq(self) -> int: ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...


E = TypeVar("E", bound=Numbered)


class EntryRing(Generic[E]):
    """Holds a range without gaps up to `last`: at most so many entries and bytes, but always the newest entry. It is
    empty after `skip_to`."""

    def __init__(self, *, maximum_entries: int, maximum_bytes: int, last: int = 0) -> None:
        self.last = last
        self._maximum_entries = maximum_entries
        self._maximum_bytes = maximum_bytes
        self._entries: deque[E] = deque()
        self._bytes = 0

    def append(self, entry: E) -> None:
        """Takes an entry above `last`. A gap before it, of entries that the store has removed, empties the ring first:
        streams that are before the gap find it in the store."""
        if entry.seq != self.last + 1:
            self.skip_to(entry.seq - 1)
        self._entries.append(entry)
        self._bytes += entry.size
        self.last = entry.seq
        while len(self._entries) > self._maximum_entries or (
            self._bytes > self._maximum_bytes and len(self._entries) > 1
        ):
            self._bytes -= self._entries.popleft().size

    def skip_to(self, last: int) -> None:
        self._entries.clear()
        self._bytes = 0
        self.last = last

    def after(self, cursor: int, limit: int) -> list[E] | None:
        """At most `limit` entries that follow the cursor; None when the ring doesn't have the next one."""
        if not self._entries or not self._entries[0].seq - 1 <= cursor < self.last:
            return None
        start = cursor + 1 - self._entries[0].seq
        return list(islice(self._entries, start, start + limit))
