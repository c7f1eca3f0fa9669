"""Processes of the platform that share the memory of the modules they all import."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from shared.stack.fork_server import ForkRequest
from shared.stack.processes import adopting_orphans, spawn

# Its imports take a second on a quiet machine.
_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.02


class ForkFailed(Exception):
    """No process was started."""


class ForkedProcess:
    """A child of this process that `subprocess` hasn't started; the same as a Popen to its users. Not thread-safe."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid != 0:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, sig: int, /) -> None:
        # Its pid isn't reused before `poll` has collected it.
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """`launch` starts it, again after it has ended; `fork` asks it for a process. Use it from the main thread.

    Nothing depends on it but memory: processes that it started are this process's children and run on without it.
    """

    def __init__(self, command: Sequence[str], log_path: Path, directory: Path, environment: Mapping[str, str]) -> None:
        """`command`: runs `shared.stack.fork_server`. `environment`: as all its processes have it."""
        self._command = command
        self._log_path = log_path
        self._directory = directory
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_SECONDS)
        self._requests = ours
        with theirs:
            self._process = spawn(
                self._command,
                log_path=self._log_path,
                directory=self._directory,
                environment=self._environment,
                standard_input=theirs.fileno(),
            )
        return self._process

    def fork(
        self, role: str, arguments: Sequence[str], *, log_path: Path, environment: Mapping[str, str]
    ) -> ForkedProcess:
        """As `spawn` does it. Raises ForkFailed if the fork server is away, which then has ended."""
        request = ForkRequest(
            parent=os.getpid(),
            role=role,
            arguments=list(arguments),
            environment={**os.environ, **environment},
            directory=str(self._directory),
            log_path=str(log_path),
        )
        try:
            with adopting_orphans():
                return ForkedProcess(self._ask(msgspec.json.encode(request)))
        except (OSError, ValueError) as error:
            self.close()
            raise ForkFailed(str(error)) from error

    def close(self) -> None:
        """Ends the fork server, not its processes."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            self._process.kill()

    def _ask(self, message: bytes) -> int:
        if self._requests is None:
            raise OSError("it doesn't run")
        self._requests.send(message)
        try:
            return int(self._requests.recv(64))
        except TimeoutError:
            # It is stopped or busy. A process that it has started has told so, or tells so before the socket ends.
            assert self._process is not None
            self._process.kill()
            return int(self._requests.recv(64))
