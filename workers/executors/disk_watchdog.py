"""Watches how much disk a running command has taken."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_INTERVAL_SECONDS = 0.5
# A big tree takes long to measure; the watchdog then spends a fifth of one core at most.
_REST_FACTOR = 4


def allocated_bytes(paths: Sequence[Path]) -> int:
    """Blocks allocated under `paths` on disk; a file with several links counts once, holes don't count.

    A tree too deep for its paths to be opened counts as endless.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [os.fspath(path) for path in paths]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # it went away
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif status.st_nlink > 1:
                        identity = (status.st_dev, status.st_ino)
                        if identity in seen:
                            continue
                        seen.add(identity)
                    total += status.st_blocks * 512
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                # Nested so deeply that it can't be measured, which must not be a place to hide in.
                return sys.maxsize
    return total


class DiskWatchdog:
    """`exceeded` is set once what lies under `paths` passes `limit_bytes`. Call `close` when the run is over."""

    def __init__(self, paths: Sequence[Path], limit_bytes: int) -> None:
        self.exceeded = threading.Event()
        self._paths = paths
        self._limit = limit_bytes
        self._used = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disk-watchdog", daemon=True)
        if paths:
            self._thread.start()

    def measure(self) -> int:
        """Bytes now; sets `exceeded` when they are too many."""
        self._used = allocated_bytes(self._paths)
        if self._used > self._limit:
            self.exceeded.set()
        return self._used

    @property
    def is_near_limit(self) -> bool:
        """The last measurement was above half of the limit."""
        return self._used > self._limit // 2

    def close(self) -> None:
        self._stopped.set()
        if self._paths:
            self._thread.join()

    def _watch(self) -> None:
        rest = _INTERVAL_SECONDS
        while not self._stopped.wait(rest) and not self.exceeded.is_set():
            started = time.monotonic()
            self.measure()
            rest = max(_INTERVAL_SECONDS, _REST_FACTOR * (time.monotonic() - started))


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
