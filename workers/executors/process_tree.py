"""The processes of a sandbox, seen from the host: everything below the init of its namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared.errors import PlatformError

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """`started` is the kernel's start time in clock ticks, so that a reused pid is not taken for this process."""

    pid: int
    started: int

    @classmethod
    def find(cls, pid: int) -> ProcessIdentity | None:
        started = _start_ticks(pid)
        return None if started is None else cls(pid, started)

    @property
    def is_alive(self) -> bool:
        """A zombie is not alive: it runs nothing, and its parent may never collect it."""
        return _start_ticks(self.pid) == self.started


def end_process(process: ProcessIdentity) -> None:
    """SIGKILL; returns when it is gone. Raises PlatformError when it doesn't go."""
    deadline = time.monotonic() + _END_SECONDS
    while process.is_alive:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(process.pid)
            try:
                # Asked again, as the handle may be of a later process with the same pid.
                if process.is_alive:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
        if time.monotonic() > deadline:
            raise PlatformError(f"Process {process.pid} of a sandbox is still there after SIGKILL.")
        time.sleep(0.01)


def find_marked(marker: str) -> list[ProcessIdentity]:
    """Live processes whose argv starts with the word `marker`."""
    found: list[ProcessIdentity] = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            is_marked = (directory / "cmdline").read_bytes().split(b"\0", 1)[0] == os.fsencode(marker)
        except OSError:
            continue
        process = ProcessIdentity.find(int(directory.name)) if is_marked else None
        if process is not None:
            found.append(process)
    return found


def descendants(init_pid: int) -> list[psutil.Process]:
    """All below the namespace's init: whatever daemonises is adopted by that init and stays in the list."""
    try:
        return psutil.Process(init_pid).children(recursive=True)
    except psutil.Error:
        return []


def has_child(pid: int) -> bool:
    """Whether the process, of one thread, has a child now. Raises psutil.Error when it is gone."""
    try:
        return bool(Path(f"/proc/{pid}/task/{pid}/children").read_bytes())
    except FileNotFoundError:
        # Without CONFIG_PROC_CHILDREN every process of the host is asked for its parent.
        return bool(psutil.Process(pid).children())


def resident_bytes(processes: list[psutil.Process]) -> int:
    """Private resident memory. Shared pages don't count: they are mostly one file mapped many times."""
    total = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process.pid}/statm").read_text().split()
        except OSError:
            continue
        total += (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    return total


def _start_ticks(pid: int) -> int | None:
    try:
        # The name in parentheses may hold anything, so count from its end; proc(5): state is field 3, start 22.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
