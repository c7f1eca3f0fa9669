"""Keeps processes running: starts again what ended, waiting longer each time, and says so."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from shared.backoff import Backoff
from shared.stack.processes import end

_SETTLED_SECONDS = 30.0
# The first start again is immediate, so this is the wait before the second.
_RESTART = Backoff(0.25, 10.0, jitter=0.0)
_LOG_BYTES = 10 * 1024 * 1024


class Supervised:
    """One role: `launch` starts its process. Not for several threads."""

    def __init__(
        self,
        role: str,
        launch: Callable[[], subprocess.Popen[bytes]],
        *,
        log_path: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.role = role
        self.log_path = log_path
        self.failures = 0
        self._launch = launch
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._next_start = 0.0

    def start(self) -> int:
        """Returns the new process's id."""
        rotate(self.log_path)
        self._process = self._launch()
        self._started_at = time.monotonic()
        return self._process.pid

    def ended(self) -> str | None:
        """How the process ended, once; the next start is due at once, then after a wait that doubles each time."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._process = None
        if time.monotonic() - self._started_at > _SETTLED_SECONDS:
            self.failures = 0
        self.failures += 1
        wait = 0.0 if self.failures == 1 else _RESTART.delay_seconds(self.failures - 1)
        self._next_start = time.monotonic() + wait
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @property
    def pid(self) -> int | None:
        """None while nothing runs. Until `ended` has collected the process, no other one has the number."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """Ends the process at once, stopped or not; it is then started again as any that ended."""
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
    """Keeps one former log. The writers append, so a log may be emptied under them."""
    try:
        if path.stat().st_size > largest:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
    except OSError:
        return  # a log that can't be rotated is no reason to stop
