"""One process that is restarted after it ends, with growing delays."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from shared.backoff import Backoff
from shared.stack.processes import Process, end

_SETTLED_SECONDS = 30.0
# The first restart is immediate; these are the delays before the second and further ones.
_RESTART = Backoff(0.25, 10.0, jitter=0.0)
_LOG_BYTES = 10 * 1024 * 1024


class Supervised:
    """A role. `launch` starts its process. Not safe from several threads."""

    def __init__(
        self,
        role: str,
        launch: Callable[[], Process],
        *,
        log_path: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.role = role
        self.log_path = log_path
        self.failures = 0
        self._launch = launch
        self._stop_signal = stop_signal
        self._process: Process | None = None
        self._started_at = 0.0
        self._next_start = 0.0

    def start(self) -> int:
        """Returns the new process's id."""
        rotate(self.log_path)
        self._process = self._launch()
        self._started_at = time.monotonic()
        return self._process.pid

    def ended(self) -> str | None:
        """Tells once how the process ended. The first restart is due at once, the next after delays that double."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._process = None
        if time.monotonic() - self._started_at > _SETTLED_SECONDS:
            self.failures = 0
        self.failures += 1
        wait = 0.0 if self.failures == 1 else _RESTART.delay_seconds(self.failures - 1)
        self._next_start = time.monotonic() + wait
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @property
    def pid(self) -> int | None:
        """None while no process runs. The pid isn't reused before `ended` has collected the process."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """Kills the process, even a stopped one. It is restarted like any that ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def is_due(self) -> bool:
        return self._process is None and time.monotonic() >= self._next_start

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self._stop_signal)

    def stop(self, deadline: float) -> None:
        """Waits until `deadline` (monotonic), then kills."""
        if self._process is not None:
            end(self._process, how=self._stop_signal, seconds=max(0.05, deadline - time.monotonic()))


def rotate(path: Path, largest: int = _LOG_BYTES) -> None:
    """Keeps one former log. The writers append, so a log can be truncated while it is written."""
    try:
        if path.stat().st_size > largest:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
    except OSError:
        return  # a failed rotation must not stop the platform
