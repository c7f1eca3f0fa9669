"""Processes that a run which was killed left at work on a server's directory, whether or not it recorded them."""

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
    """The state as proc(5) has it, None when there is no such process.

    A zombie that has threads which haven't ended yet still holds its files and ports: it counts as running ("R").
    """
    try:
        # The name in parentheses may hold anything; what follows the last one has fixed places.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) > 1:
            return "R"
    except (OSError, IndexError):
        return None
    return state


def is_gone(pid: int) -> bool:
    """Whether nothing of the process is left but, at most, an exit code that its parent hasn't asked for.

    A zombie has given back its memory, files, locks and ports; whether and when it is collected is its parent's matter,
    and some first processes of containers never do.
    """
    return (state_of(pid) or "X") in "ZX"


def wait_for_dying(pid: int, seconds: float) -> None:
    """Waits while the process is on its way out: it has no program any more, but may still hold files and ports."""
    deadline = time.monotonic() + seconds
    while not is_gone(pid) and _program_of(pid) is None and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS)


def sees_processes() -> bool:
    """Whether this system shows what its processes run."""
    return _link(os.getpid(), "exe") is not None and _link(os.getpid(), "cwd") is not None


def processes_of(program: Path, directory: Path) -> list[int]:
    """Live processes that run a program of this name in the directory. Empty where processes can't be looked at."""
    try:
        place = directory.stat()
    except OSError:
        return []
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _program_of(pid) == program.name and _is_in(pid, place) and not is_gone(pid)]


def end_processes_of(program: Path, directory: Path, signals: Sequence[tuple[signal.Signals, float]]) -> list[int]:
    """Ends what runs the program in the directory: by each signal in turn, waiting so many seconds, then by SIGKILL.

    Returns what it found. What still lives after that can't be ended, and is left to whoever meets it.
    """
    found = processes_of(program, directory)
    if not found:
        return []
    for number, seconds in (*signals, (signal.SIGKILL, _KILLED_WITHIN_SECONDS)):
        # Looked up again each time: a pid may be another process by now, and some have made children.
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
    """The name of the program's file. Not its path: another installation may have started it."""
    program = _link(pid, "exe")
    # So the kernel marks a program whose file was replaced meanwhile, as by an upgrade.
    return None if program is None else Path(program.removesuffix(" (deleted)")).name


def _is_in(pid: int, place: os.stat_result) -> bool:
    """Whether the process works in this very directory; a path may mean another one, as in a container."""
    try:
        return os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), place)
    except OSError:
        return False


def _link(pid: int, name: str) -> str | None:
    try:
        return os.fspath(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return None
