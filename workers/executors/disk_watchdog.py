"""Watches how much disk a running command uses, in bytes and in files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from shared.background import PeriodicTask
from workers.executors.disk_usage import DiskUsage, measure

_INTERVAL_SECONDS = 0.5
# A big tree takes long to measure; the watchdog then spends a fifth of one core at most, and half of one while the disk
# loses so much that the limit may be passed meanwhile.
_REST_FACTOR = 4


class DiskWatchdog:
    """`exceeded` is set once the usage under `paths` passes a limit. Call `close` when the run is over."""

    def __init__(self, paths: Sequence[Path], most_bytes: int, most_entries: int) -> None:
        self.exceeded = threading.Event()
        self._paths = paths
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._used = DiskUsage(0, 0)
        self._free: dict[int, DiskUsage] = {}
        # When the next measurement may come, if it is urgent, and when it comes anyway.
        self._soonest = self._due = 0.0
        self._task = PeriodicTask("disk-watchdog", self._watch, _INTERVAL_SECONDS, waits_first=True)
        if paths:
            self._task.start()

    def measure(self) -> DiskUsage:
        """The current usage; sets `exceeded` if it passes a limit."""
        self._free = _free_space(self._paths)
        self._used = measure(self._paths, self._most_bytes, self._most_entries)
        if self._used.size_bytes > self._most_bytes or self.has_too_many_entries:
            self.exceeded.set()
        return self._used

    @property
    def has_too_many_entries(self) -> bool:
        """In the last measurement."""
        return self._used.entries > self._most_entries

    @property
    def is_near_limit(self) -> bool:
        """The last measurement was above half of a limit."""
        return self._used.size_bytes > self._most_bytes // 2 or self._used.entries > self._most_entries // 2

    def close(self) -> None:
        self._task.stop()

    def _watch(self) -> None:
        started = time.monotonic()
        if self.exceeded.is_set() or (started < self._due and not self._is_urgent(started)):
            return
        self.measure()
        ended = time.monotonic()
        self._soonest, self._due = ended + (ended - started), ended + _REST_FACTOR * (ended - started)

    def _is_urgent(self, now: float) -> bool:
        return now >= self._soonest and self._may_be_exceeded()

    def _may_be_exceeded(self) -> bool:
        """Whether free space has shrunk since the last measurement by more than the limits leave, for any reason."""
        for device, now in _free_space(self._paths).items():
            before = self._free.get(device, now)
            if (
                before.size_bytes - now.size_bytes > self._most_bytes - self._used.size_bytes
                or before.entries - now.entries > self._most_entries - self._used.entries
            ):
                return True
        return False


def _free_space(paths: Sequence[Path]) -> dict[int, DiskUsage]:
    """Device → free space. Some file systems have no fixed number of entries and say 0."""
    free: dict[int, DiskUsage] = {}
    for path in paths:
        try:
            status = os.statvfs(path)
            free[path.stat().st_dev] = DiskUsage(status.f_bfree * status.f_frsize, status.f_ffree)
        except OSError:
            continue
    return free


def is_disk_full(paths: Sequence[Path], reserve_bytes: int = 16 * 1024 * 1024) -> bool:
    """A file system under `paths` has less than `reserve_bytes` left for ordinary users."""
    for path in paths:
        try:
            status = os.statvfs(path)
        except OSError:
            continue
        if status.f_bavail * status.f_frsize < reserve_bytes or (status.f_files and status.f_favail == 0):
            return True
    return False
