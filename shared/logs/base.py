"""The seams of the log: where entries are stored, how watchers are woken, and who writes for a stage."""

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
    """A struct, not a dataclass: a log has a million of them, and these are made five times as fast."""

    seq: int
    entry: LogEntry


def numbered_above(after: int, entries: Sequence[LogEntry], first: int) -> Iterator[NumberedEntry]:
    """Of entries numbered from `first`: those above `after`, ascending."""
    for place in range(max(0, after + 1 - first), len(entries)):
        yield NumberedEntry(first + place, entries[place])


def numbered_below(before: int, entries: Sequence[LogEntry], first: int) -> Iterator[NumberedEntry]:
    """Of entries numbered from `first`: those below `before`, descending."""
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
        """Numbers and stores the entries inside the caller's transaction; returns the first and last number.

        With a fence: raises LeaseLost when a greater one has written, and repeats of the same (fence, batch > 0)
        change nothing. Without one (the API): whoever holds the row lock may write. A LogEnd closes the log;
        appending to a closed log changes nothing. Where nothing changes, the range is empty: (head + 1, head).
        Raises NotFound when the deployment has been deleted.
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
