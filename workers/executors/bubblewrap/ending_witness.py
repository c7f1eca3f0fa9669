"""Tells a command that ended from a sandbox whose init was killed: bubblewrap reports both as the same exit code.

bubblewrap's init writes the command's status to an eventfd before it ends; a kill of the init comes before that.
bubblewrap itself, which would read the eventfd at once, is stopped until the worker has looked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from pathlib import Path

# pidfd_getfd(2), Linux 5.6; the same number on every architecture.
_PIDFD_GETFD = 438
_EVENTFD = "anon_inode:[eventfd]"
_SECONDS = 5.0
_POLL_SECONDS = 0.001


class EndingWitness:
    """`launcher` and `init` are pidfds that stay the caller's. Made by `find`; `close` it."""

    def __init__(self, launcher: int, init: int, event: int) -> None:
        self._launcher = launcher
        self._init = init
        self._event = event
        self._is_released = False
        self.has_init_died = False

    @classmethod
    def find(cls, pid: int, launcher: int, init: int) -> EndingWitness | None:
        """Stops bubblewrap (`pid`) where it waits for the command. None where the kernel doesn't show its eventfd."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline and not _is_ready(init):
            events = _eventfds(pid)
            if events is None:
                return None
            # During the setup there may be zero or two.
            if len(events) == 1 and _is_asleep(pid):
                event = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, launcher, events[0], 0)
                if event < 0:
                    return None
                witness = cls(launcher, init, event)
                witness._signal(signal.SIGSTOP)
                return witness
            time.sleep(_POLL_SECONDS)
        return None

    def wait(self, timeout_seconds: float) -> None:
        """Returns at the latest when the command or the init has ended; bubblewrap then continues."""
        if self._is_released:
            return
        poller = select.poll()
        for descriptor in (self._event, self._init, self._launcher):
            poller.register(descriptor, select.POLLIN)
        if poller.poll(max(0.0, timeout_seconds) * 1000):
            self.has_init_died = not _is_ready(self._event) and _is_ready(self._init)
            self.release()

    def release(self) -> None:
        """Lets bubblewrap continue. May be called twice."""
        if not self._is_released:
            self._is_released = True
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.release()
        os.close(self._event)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._launcher, number)


def _eventfds(pid: int) -> list[int] | None:
    found: list[int] = []
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(path.readlink()) == _EVENTFD:
                    found.append(int(path.name))
    except OSError:
        return None
    return found


def _is_asleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "S"
    except OSError:
        return False


def _is_ready(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
