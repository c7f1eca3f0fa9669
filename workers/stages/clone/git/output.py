"""Reads the output and the messages of a program that `runner.py` runs, each up to a limit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import IO

from shared.errors import FailureCode, StageFailure

_PROGRESS_INTERVAL = 2.0
# Of an output that is kept. Lists of files are longer and are consumed in chunks.
_MAXIMUM_OUTPUT = 4 << 20
# Of the messages of git and the server in one run; the rest isn't logged.
_MAXIMUM_MESSAGES = 1 << 20
_MAXIMUM_LINE = 2000


class Output:
    """A program's standard output: kept, or passed to `consume`. `failure` and `is_enough` end the program.

    `limit`: this many bytes are enough. None: all are needed.
    """

    def __init__(self, consume: Callable[[bytes], None] | None, limit: int | None) -> None:
        self.data = bytearray()
        self.failure: Exception | None = None
        self.is_enough = False
        self._consume = consume or self._keep
        self._limit = limit

    def read(self, pipe: IO[bytes]) -> None:
        while self.failure is None and not self.is_enough and (data := os.read(pipe.fileno(), 65536)):
            try:
                self._consume(data)
            except Exception as error:  # noqa: BLE001 - raised in the thread that waits
                self.failure = error

    def _keep(self, data: bytes) -> None:
        self.data += data
        if self._limit is not None and len(self.data) >= self._limit:
            del self.data[self._limit :]
            self.is_enough = True
        elif len(self.data) > _MAXIMUM_OUTPUT:
            # A truncated list would be taken for the whole.
            raise StageFailure(
                FailureCode.REPOSITORY_TOO_LARGE,
                f"git's list of the repository takes more than {_MAXIMUM_OUTPUT >> 20} MiB. Deploy a repository "
                "that holds the site alone.",
            )


class Messages:
    """git's standard error: passes on whole lines, and progress (lines that overwrite each other) every two seconds."""

    def __init__(self, on_line: Callable[[bytes], None] | None) -> None:
        self._on_line = on_line
        self._lines: list[bytes] = []
        self._left = _MAXIMUM_MESSAGES
        self._shown_at = time.monotonic()

    def read(self, pipe: IO[bytes]) -> None:
        rest = b""
        while data := os.read(pipe.fileno(), 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line.rstrip(b"\r").rpartition(b"\r")[2])
            *overwritten, rest = rest[-65536:].split(b"\r")
            if overwritten and time.monotonic() - self._shown_at > _PROGRESS_INTERVAL:
                self._show(overwritten[-1])
        if rest:
            self._line(rest)

    def _line(self, line: bytes) -> None:
        self._lines.append(line[:_MAXIMUM_LINE])
        del self._lines[:-200]
        self._show(line)

    def _show(self, line: bytes) -> None:
        self._shown_at = time.monotonic()
        if self._on_line is None or not line.strip() or self._left <= 0:
            return
        self._left -= len(line) + 1
        self._on_line(line.rstrip() + b"\n")
        if self._left <= 0:
            self._on_line(b"Further messages are not shown.\n")

    def text(self) -> str:
        return b"\n".join(self._lines).decode("utf-8", "replace")
