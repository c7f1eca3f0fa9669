"""Clocks as collaborators, so that tests control the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


def unix_milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


class Clock(Protocol):
    """May be called from any thread at any time."""

    def now(self) -> datetime:
        """Returns the wall-clock time, aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes backwards."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
