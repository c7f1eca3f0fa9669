"""Finds and ends processes of a killed run that still use a server's directory, recorded or not."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

_STEP_SECONDS = 0.01
_KILLED_WITHIN_SECONDS = 5.0


def state_of(pid: int) -> str | None:
    """The state as in proc(5), or None if the process doesn't exist.

    A zombie with threads that haven't ended still holds its files and ports, so it counts as running ("R").
    """
    try:
        # The name in parentheses may contain anything; the fields after the last parenthesis have fixed positions.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) > 1:
            return "R"
    except (OSError, IndexError):
        return None
    return state


def is_gone(pid: int) -> bool:
    """Whether at most an exit code is left of the process, which its parent hasn't collected.

    A zombie has released its memory, files, locks and ports. Its parent decides when to collect it, and the first
    processes of some containers never do.
    """
    return (state_of(pid) or "X") in "ZX"


def wait_for_dying(pid: int, seconds: float) -> None:
    """Waits for a process that is ending: it has no program any more, but may still hold files and ports."""
    deadline = time.monotonic() + seconds
    while not is_gone(pid) and _program_of(pid) is None and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS)


def sees_processes() -> bool:
    """Whether this system shows the programs and directories of its processes."""
    return _link(os.getpid(), "exe") is not None and _link(os.getpid(), "cwd") is not None


def processes_of(program: Path, directory: Path) -> list[int]:
    """Live processes that run a program of this name in the directory. Empty if processes can't be inspected."""
    try:
        place = directory.stat()
    except OSError:
        return []
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _program_of(pid) == program.name and _is_in(pid, place) and not is_gone(pid)]


def end_processes_of(program: Path, directory: Path, signals: Sequence[tuple[signal.Signals, float]]) -> list[int]:
    """Ends the program's processes in the directory: by each signal in turn with its timeout in seconds, then SIGKILL.

    Returns the processes that it found. One that survives SIGKILL can't be ended; the caller's next step will fail.
    """
    found = processes_of(program, directory)
    if not found:
        return []
    for number, seconds in (*signals, (signal.SIGKILL, _KILLED_WITHIN_SECONDS)):
        # Looked up again each time: a pid may have been reused, and processes may have started children.
        alive = processes_of(program, directory)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while alive and processes_of(program, directory) and time.monotonic() < deadline:
            time.sleep(_STEP_SECONDS)
    for pid in found:
        wait_for_dying(pid, _KILLED_WITHIN_SECONDS)
    return found


def _program_of(pid: int) -> str | None:
    """The name of the program's file. Its path may differ, because another installation may have started it."""
    program = _link(pid, "exe")
    # So the kernel marks a program whose file was replaced meanwhile, as by an upgrade.
    return None if program is None else Path(program.removesuffix(" (deleted)")).name


def _is_in(pid: int, place: os.stat_result) -> bool:
    """Whether the directory is the process's. Paths can't be compared: in a container they may differ."""
    try:
        return os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), place)
    except OSError:
        return False


def _link(pid: int, name: str) -> str | None:
    try:
        return os.fspath(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return None
