"""The second container of a build's pod: the init of the command's processes. Standard library only.

It keeps the limits that Kubernetes has none for (time with a SIGTERM first, processes, disk, output), writes the output
as frames (`frames.py`), and ends everything inside before it ends itself. The command can't reach it: an init gets no
signal that it has no handler for (pid_namespaces(7)), its memory and descriptors are closed to the command's user
(`entry.shut`), and the filter keeps its limits.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from workers.executors.disk_usage import DiskUsage, measure
from workers.executors.docker import entry
from workers.executors.kubernetes.pod import frames
from workers.executors.kubernetes.pod.ending import (
    COMMAND_KILLED,
    STOPPED_BY_DISK,
    STOPPED_BY_MEMORY,
    STOPPED_BY_TIME,
)
from workers.executors.kubernetes.pod.memory import Memory

_POLL_SECONDS = 0.1
_MEASURE_SECONDS = 0.5
# A big tree takes long to measure: a fifth of one core at most.
_REST_FACTOR = 4
_OPEN_FILES = 4096
_CANNOT_RUN = 126
_KILLED = 137
# From the end of the last process to the end of its output.
_DRAIN_SECONDS = 5.0
_CODES = {"timeout": STOPPED_BY_TIME, "disk_full": STOPPED_BY_DISK, "out_of_memory": STOPPED_BY_MEMORY}


class Disk:
    """Measures what the command adds to its directories. `excess`: which limit is passed, or empty."""

    def __init__(self, paths: Sequence[Path], most_bytes: int, most_entries: int) -> None:
        self._paths = paths
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._before = measure(paths)
        self.excess = ""

    def start(self) -> None:
        if self._paths:
            threading.Thread(target=self._watch, daemon=True).start()

    def measure(self) -> None:
        most_bytes = self._before.size_bytes + self._most_bytes
        most_entries = self._before.entries + self._most_entries
        used: DiskUsage = measure(self._paths, most_bytes, most_entries)
        if used.entries > most_entries:
            self.excess = "entries"
        elif used.size_bytes > most_bytes:
            self.excess = "bytes"

    def _watch(self) -> None:
        while not self.excess:
            started = time.monotonic()
            self.measure()
            time.sleep(max(_MEASURE_SECONDS, _REST_FACTOR * (time.monotonic() - started)))


class Output:
    """Writes the frames to the container's log, up to `limit_bytes` of data; the rest is read and dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._number = 0

    def give(self, kind: bytes, data: bytes) -> None:
        while data and self._left > 0:
            part, data = data[: frames.CHUNK_BYTES], data[frames.CHUNK_BYTES :]
            part = part[: self._left]
            self._left -= len(part)
            self._write(kind, part)

    def end(self, words: Mapping[str, Any]) -> None:
        self._write(frames.END, json.dumps(words).encode())

    def _write(self, kind: bytes, data: bytes) -> None:
        self._number += 1
        line = frames.encode(frames.Frame(self._number, kind, data))
        while line:
            line = line[os.write(1, line) :]


def run_command(request: Mapping[str, Any]) -> NoReturn:
    entry.shut()
    Supervision(request).run()


class Supervision:
    """One command, from its start to the end of the container."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._limits: Mapping[str, Any] = request["limits"]
        self._output = Output(self._limits["output_bytes"] + 1)
        self._memory = Memory()
        self._stop = ""
        self._kill_at: float | None = None
        self._is_terminated = False
        self._status: int | None = None
        self._disk = Disk(
            [Path(path) for path in request["writable"]], self._limits["disk_bytes"], self._limits["disk_entries"]
        )

    def run(self) -> NoReturn:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._terminate())
        pipes = [os.pipe(), os.pipe()]
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            self._become_command(pipes)
        for _, writable in pipes:
            os.close(writable)
        self._disk.start()
        sources = {pipes[0][0]: frames.STDOUT, pipes[1][0]: frames.STDERR}
        poller = select.poll()
        for descriptor in (*sources, wake_read):
            poller.register(descriptor, select.POLLIN)
        deadline = started + self._limits["wall_seconds"]
        while self._status is None:
            self._carry(poller, sources, wake_read, _POLL_SECONDS)
            self._status = entry.reap(child)
            self._keep_limits(deadline)
        self._finish(poller, sources, wake_read, time.monotonic() - started)

    def _carry(self, poller: select.poll, sources: dict[int, bytes], wake: int, seconds: float) -> bool:
        """Whether anything came."""
        ready = poller.poll(seconds * 1000)
        for descriptor, _ in ready:
            if descriptor == wake:
                os.read(wake, 4096)
                continue
            data = os.read(descriptor, 8 * frames.CHUNK_BYTES)
            if data:
                self._output.give(sources[descriptor], data)
            else:
                poller.unregister(descriptor)
                del sources[descriptor]
        return bool(ready)

    def _keep_limits(self, deadline: float) -> None:
        now = time.monotonic()
        if self._memory.was_exceeded():
            self._end_at_once("out_of_memory" if self._memory.is_at_limit() else "host_out_of_memory")
        elif self._disk.excess:
            self._end_at_once("disk_full")
        elif self._kill_at is not None:
            if now >= self._kill_at:
                entry.signal_all(signal.SIGKILL)
        elif now >= deadline or self._is_terminated:
            self._stop = self._stop or ("" if self._is_terminated else "timeout")
            self._kill_at = now + self._limits["stop_seconds"]
            if not self._is_terminated:
                entry.signal_all(signal.SIGTERM)

    def _end_at_once(self, reason: str) -> None:
        self._stop = self._stop or reason
        entry.signal_all(signal.SIGKILL)

    def _terminate(self) -> None:
        """The pod is deleted."""
        self._is_terminated = True
        entry.signal_all(signal.SIGTERM)

    def _finish(self, poller: select.poll, sources: dict[int, bytes], wake: int, seconds: float) -> NoReturn:
        while _has_children():
            entry.signal_all(signal.SIGKILL)
            self._carry(poller, sources, wake, 0.01)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while sources and time.monotonic() < deadline:
            self._carry(poller, sources, wake, _POLL_SECONDS)
        if not self._stop and self._memory.was_exceeded():
            self._stop = "out_of_memory" if self._memory.is_at_limit() else "host_out_of_memory"
        if not self._stop:
            self._disk.measure()
            self._stop = "disk_full" if self._disk.excess else ""
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        code = 128 - code if code < 0 else code
        self._output.end(
            {
                "stop": self._stop,
                "exit_code": code,
                "excess": self._disk.excess,
                "was_terminated": self._is_terminated,
                "seconds": seconds,
                "peak_memory_bytes": self._memory.peak_bytes(),
            }
        )
        if self._stop:
            os._exit(_CODES.get(self._stop, _KILLED))
        os._exit(COMMAND_KILLED if code == _KILLED else code)

    def _become_command(self, pipes: Sequence[tuple[int, int]]) -> NoReturn:
        try:
            os.dup2(pipes[0][1], 1)
            os.dup2(pipes[1][1], 2)
            self._set_limits()
            entry.become(self._request, base64.b64decode(self._request["filter"]))
        except BaseException as error:  # noqa: BLE001 - nothing of this process may run on as a second parent
            os.write(2, f"The command can't be started: {error}\n".encode(errors="replace"))
        os._exit(_CANNOT_RUN)

    def _set_limits(self) -> None:
        """Of the command: the run's user is its own, so that processes of this run alone count."""
        for what, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_FSIZE, self._limits["file_bytes"]),
            (resource.RLIMIT_NPROC, self._limits["process_count"]),
            (resource.RLIMIT_MSGQUEUE, 819_200),
        ):
            _, hard = resource.getrlimit(what)
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (value, value))


def _has_children() -> bool:
    """Whether any process is left; the orphans are this one's children."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
