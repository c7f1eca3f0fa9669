"""Tells whether a disk takes writes at all: a tenant's may hold up everybody's for as long as it writes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from shared.background import PeriodicTask
from shared.worker_life import BEAT_SECONDS


class DiskPulse:
    """From `start` to `stop`, a thread writes to `path` as often as workers do to their own files. `answered_at`: when
    the last write ended, on the monotonic clock. A full disk answers, too; one that stalls doesn't."""

    def __init__(self, path: Path) -> None:
        self.answered_at = time.monotonic()
        self._path = path
        self._task = PeriodicTask("disk-pulse", self._beat, BEAT_SECONDS, waits_first=True)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """Doesn't wait for the thread, which may wait for the disk."""
        self._task.stop(timeout_seconds=0)

    def _beat(self) -> None:
        with suppress(OSError):
            self._write()
        self.answered_at = time.monotonic()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, b"%020d" % time.monotonic_ns(), 0)
        finally:
            os.close(descriptor)
