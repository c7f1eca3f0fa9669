"""Carries a command's output to the caller, bounded and one call at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from typing import Literal

from workers.executors.base import OnOutput

_CHUNK_BYTES = 64 * 1024
# Output that the command can write before it has to wait for the pump; the kernel's default is 64 KiB.
_PIPE_BYTES = 256 * 1024
# A program that flushes every line would have each read alone, which costs as much as reading a hundred: after a read
# of little, what comes piles up for this long.
_PAUSE_SECONDS = 0.005
_LITTLE_BYTES = 16 * 1024
_HELD_BYTES = 4096
_LAUNCHER_PREFIX = b"bwrap: "


class OutputPump:
    """Owns the read ends of two pipes. `error`: the exception of `on_output`; the output is drained all the same.

    The launcher's own messages on stderr before the command starts are held back: they name paths of the host.
    `finish` gives it out when the command did start and it was the command's after all.

    One thread reads both pipes, so a full one never keeps the other from being read. While `on_output` waits, nothing
    is read and the command waits at its next print.
    """

    def __init__(self, stdout: int, stderr: int, limit_bytes: int, on_output: OnOutput) -> None:
        self.error: Exception | None = None
        self.held = b""
        self._on_output = on_output
        self._left = limit_bytes
        self._limit = limit_bytes
        self._pipes: dict[int, Literal["stdout", "stderr"]] = {stdout: "stdout", stderr: "stderr"}
        self._is_holding = True
        self._has_ended = threading.Event()
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._pump, name="sandbox-output", daemon=True)
        self._thread.start()

    def finish(self, *, did_start: bool, grace_seconds: float = 2.0) -> None:
        """Call it when the command has ended. Waits for the end of both pipes, at most `grace_seconds` for one that
        something else holds open; all that the command printed is passed on, however long `on_output` takes."""
        self._has_ended.set()
        self._thread.join(grace_seconds)
        os.close(self._stop_write)
        self._thread.join()
        os.close(self._stop_read)
        if did_start and self.held:
            self._give("stderr", self.held)

    def _pump(self) -> None:
        poller = select.poll()
        for descriptor in self._pipes:
            with contextlib.suppress(OSError):  # the user's share of memory for pipes is used up
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        for descriptor in (*self._pipes, self._stop_read):
            poller.register(descriptor, select.POLLIN)
        pending = set(self._pipes)
        while pending:
            ready = [descriptor for descriptor, _ in poller.poll()]
            if self._stop_read in ready:
                self._drain(pending)
                break
            size = 0
            for descriptor in ready:
                data = os.read(descriptor, _CHUNK_BYTES)
                size += len(data)
                if data:
                    self._take(self._pipes[descriptor], data)
                else:
                    poller.unregister(descriptor)
                    pending.discard(descriptor)
            if size <= _LITTLE_BYTES:
                self._has_ended.wait(_PAUSE_SECONDS)
        for descriptor in self._pipes:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _drain(self, pending: set[int]) -> None:
        """The current content of the pipes, without waiting for their ends."""
        for descriptor in pending:
            os.set_blocking(descriptor, False)
            left = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
            while left > 0:
                try:
                    data = os.read(descriptor, min(left, _CHUNK_BYTES))
                except BlockingIOError:
                    break
                if not data:
                    break
                left -= len(data)
                self._take(self._pipes[descriptor], data)

    def _take(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stderr" and self._is_holding:
            data = self.held + data
            is_launcher = data[: len(_LAUNCHER_PREFIX)] == _LAUNCHER_PREFIX[: len(data)]
            if is_launcher and len(data) <= _HELD_BYTES:
                self.held = data
                return
            self._is_holding, self.held = False, b""
        self._give(stream, data)

    def _give(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if self.error is not None or self._left < 0:
            return
        try:
            if len(data) <= self._left:
                self._left -= len(data)
                self._on_output(stream, data)
                return
            if self._left:
                self._on_output(stream, data[: self._left])
            self._left = -1
            notice = f"\n[The output passed its limit of {self._limit} bytes: the rest is not kept.]\n"
            self._on_output("stderr", notice.encode())
        except Exception as error:  # noqa: BLE001 - handed to the thread that runs the command
            self.error = error
