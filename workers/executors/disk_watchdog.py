"""Watches how much disk a running command uses, in bytes and in files."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.background import PeriodicTask
from workers.filesystem.descent import open_directory

_INTERVAL_SECONDS = 0.5
# A big tree takes long to measure; the watchdog then spends a fifth of one core at most, and half of one while the disk
# loses so much that the limit may be passed meanwhile.
_REST_FACTOR = 4


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """`size_bytes` of allocated blocks; `entries` are names: files, directories, links, each hard link of a file."""

    size_bytes: int
    entries: int


# For trees that are too deep or unreadable: they must not hide usage.
_ENDLESS = DiskUsage(sys.maxsize, 0)


def measure(paths: Sequence[Path], most_bytes: int = sys.maxsize, most_entries: int = sys.maxsize) -> DiskUsage:
    """Disk usage under `paths`; stops early once a bound is passed. Blocks of a file with several links count once.

    A tree too deep for its paths to be opened counts as endless, as does a directory that stays unreadable.
    """
    size = count = 0
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[str, tuple[int, int] | None]] = [(os.fspath(path), None) for path in paths]
    while pending:
        parent, expected = pending.pop()
        try:
            with _listed(parent, expected) as entries:
                for entry in entries:
                    count += 1
                    if size > most_bytes or count > most_entries:
                        return DiskUsage(size, count)
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted meanwhile
                    identity = (status.st_dev, status.st_ino)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((f"{parent}/{entry.name}", identity))
                    elif status.st_nlink > 1:
                        if identity in seen:
                            continue
                        seen.add(identity)
                    size += status.st_blocks * 512
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
                return _ENDLESS
    return DiskUsage(size, count)


@contextmanager
def _listed(path: str, identity: tuple[int, int] | None) -> Generator[Iterable[os.DirEntry[str]]]:
    """The entries of the directory; none if a link or another directory has replaced any part of the path.

    A build may move its directories at any time; only directories that were seen inside the tree are measured.
    """
    directory = open_directory(path)
    try:
        status = os.fstat(directory)
        if identity in (None, (status.st_dev, status.st_ino)):
            with os.scandir(directory) as entries:
                yield entries
        else:
            yield ()
    finally:
        os.close(directory)


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
