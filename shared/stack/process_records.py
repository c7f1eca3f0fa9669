"""Records a run's processes on disk, so that the next run can end those that a killed run left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.stack.home import write_private
from shared.stack.leftovers import is_gone

_STOP_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """`started`: boot id and start time in ticks, which together with the pid identify a process uniquely."""

    role: str
    pid: int
    started: str


def start_of(pid: int) -> str | None:
    """A process's `started`, or None if it doesn't exist or is a zombie."""
    try:
        # The name in parentheses may contain anything; the fields after it have fixed positions (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if is_gone(pid) else f"{boot}:{fields[19]}"


class ProcessRecords:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, ProcessRecord] = {}

    def add(self, role: str, pid: int) -> None:
        """Records the role's process in place of its former one."""
        self._records[role] = ProcessRecord(role, pid, start_of(pid) or "")
        self._write()

    def is_unclean(self) -> bool:
        """Whether the former run ended without `clear`, that is, was killed."""
        return bool(self._read())

    def clear(self) -> None:
        self._records.clear()
        self._write()

    def end_orphans(self) -> list[str]:
        """Ends the processes of a former run. Returns their roles. A reused pid is left alone."""
        orphans = [record for record in self._read() if start_of(record.pid) == record.started]
        for record in orphans:
            _signal(record, signal.SIGINT if record.role == "postgres" else signal.SIGTERM)
        _wait_gone(orphans, _STOP_SECONDS)
        for record in orphans:
            # PostgreSQL's immediate shutdown also ends its children.
            _signal(record, signal.SIGQUIT if record.role == "postgres" else signal.SIGKILL)
        _wait_gone(orphans, _STOP_SECONDS)
        for record in orphans:
            _signal(record, signal.SIGKILL)
        _wait_gone(orphans, _STOP_SECONDS)
        self.clear()
        return [record.role for record in orphans]

    def _read(self) -> list[ProcessRecord]:
        try:
            return [ProcessRecord(**record) for record in json.loads(self._path.read_text())]
        except (OSError, ValueError, TypeError):
            return []

    def _write(self) -> None:
        write_private(self._path, [asdict(record) for record in self._records.values()])


def _signal(record: ProcessRecord, number: signal.Signals) -> None:
    if start_of(record.pid) == record.started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)


def _wait_gone(records: list[ProcessRecord], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(start_of(record.pid) == record.started for record in records):
        time.sleep(0.02)
