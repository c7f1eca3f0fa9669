"""Ends workers whose heartbeat is old: stopped, thrashing, or with an interpreter that something holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.stack.supervised import Supervised
from shared.worker_life import Verdict, read_life, record_verdict

# Who looks each 0.1 s and finds so much time gone was stopped itself, and what it remembers tells nothing. Nor does it
# while the disk takes no write: the workers' beats wait for it, however alive they are.
_PAUSE_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.5


@dataclass(slots=True)
class _Seen:
    changed: int
    since: float


class WorkerWatch:
    """`look` is called often, by the one who started the processes. An age is what this process saw itself: from the
    last change of the file that it noticed, without a pause of its own in between; no file's time is compared with a
    clock. `seconds`: from which age on a worker is ended. `disk_answered_at`: when the disk took a write last, on the
    clock of `monotonic`.
    """

    def __init__(
        self,
        directory: Path,
        seconds: float,
        say: Callable[[str], None],
        *,
        disk_answered_at: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._seconds = seconds
        self._say = say
        self._disk_answered_at = disk_answered_at
        self._monotonic = monotonic
        self._seen: dict[Path, _Seen] = {}
        self._called_at = monotonic()
        self._look_at = 0.0

    def look(self, supervised: Iterable[Supervised]) -> None:
        now = self._monotonic()
        if now - min(self._called_at, self._disk_answered_at()) > _PAUSE_SECONDS:
            self._seen.clear()
        self._called_at = now
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_SECONDS
        present: dict[Path, _Seen] = {}
        for path in self._directory.glob("*.life"):
            try:
                changed = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            seen = self._seen.get(path)
            present[path] = seen if seen is not None and seen.changed == changed else _Seen(changed, now)
        self._seen = present
        old = [path for path, seen in present.items() if now - seen.since >= self._seconds]
        if old:
            self._end(old, {process.pid: process for process in supervised if process.pid is not None})

    def _end(self, paths: list[Path], processes: dict[int, Supervised]) -> None:
        for path in paths:
            life = read_life(path)
            if life is None or life.pid not in processes:
                continue  # another's, or a dead one's that nobody has handed back yet
            try:
                # First, so that it counts whatever becomes of this process.
                record_verdict(path, Verdict.HEARTBEAT, self._seen[path].changed)
            except OSError as error:
                self._say(f"The end of {life.worker} can't be recorded ({error}); its job may be tried once more.")
            processes[life.pid].kill()
            self._seen.pop(path, None)
            self._say(f"{life.worker} has shown no sign of life for {self._seconds:.0f} s; it is ended and replaced.")
