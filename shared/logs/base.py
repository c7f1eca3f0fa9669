"""The interfaces of the log: where entries are stored, and how watchers are woken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from schemas.logs import LogEntry
from shared.db.database import Connection


class LogHead(msgspec.Struct, frozen=True):
    """`last_seq` is 0 for a log without entries."""

    last_seq: int
    is_closed: bool


class NumberedEntry(msgspec.Struct, frozen=True):
    """A struct instead of a dataclass: a log may have a million, and a struct is created five times as fast."""

    seq: int
    entry: LogEntry


def numbered_above(after: int, entries: Sequence[LogEntry], first: int) -> Iterator[NumberedEntry]:
    """The entries above `after`, ascending. `first` is the number of the first one given."""
    for place in range(max(0, after + 1 - first), len(entries)):
        yield NumberedEntry(first + place, entries[place])


def numbered_below(before: int, entries: Sequence[LogEntry], first: int) -> Iterator[NumberedEntry]:
    """The entries below `before`, descending. `first` is the number of the first one given."""
    for place in range(min(len(entries), before - first) - 1, -1, -1):
        yield NumberedEntry(first + place, entries[place])


class LogStore(Protocol):
    """PostgreSQL is the log. Safe from any thread."""

    def append(
        self,
        connection: Connection,
        deployment_id: str,
        entries: Sequence[LogEntry],
        *,
        fence: int | None,
        batch: int = 0,
    ) -> tuple[int, int]:
        """Numbers and stores the entries in the caller's transaction. Returns the first and the last number.

        With a fence: raises LeaseLost if a greater one has written, and a repeat of the same (fence, batch > 0) changes
        nothing. Without one (the API), the row lock suffices. A LogEnd closes the log; appending to a closed log
        changes nothing. If nothing changes, the range is empty: (head + 1, head). Raises NotFound if the deployment
        has been deleted.
        """
        ...

    def read(self, deployment_id: str, *, after: int, limit: int) -> list[NumberedEntry]:
        """At most `limit` entries with a number above `after`, in order."""
        ...

    def head(self, deployment_id: str) -> LogHead: ...


class Notifier(Protocol):
    """Wakes watchers. At most once, never raises: nothing depends on it arriving.

    Called after the commit, with what `append` returned and was given.
    """

    def notify(self, deployment_id: str, first: int, last: int, entries: Sequence[LogEntry]) -> None: ...
