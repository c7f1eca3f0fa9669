"""One build's container: started with its command, watched, stopped, and seen gone."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil

from shared.errors import PlatformError
from workers.executors.base import OnOutput
from workers.executors.cgroups import ControlGroup, MemoryEvents, find_group_of
from workers.executors.docker.connection import AttachedStream, ContainerGone, DaemonLost, DockerConnection
from workers.executors.docker.entry import COMMAND_KILLED
from workers.executors.output_pump import OutputPump
from workers.executors.process_tree import ProcessIdentity, end_process

_CHUNK_BYTES = 64 * 1024
_STDERR = 2
_INSPECT_SECONDS = 1.0
_POLL_SECONDS = 0.02
# From the end of the output to the daemon's word that the container has ended.
_END_LAG_SECONDS = 10.0
_GONE_SECONDS = 60.0
_LOST_SECONDS = 20.0
_MEMORY_WORD_SECONDS = 1.0
_KILLED = 137


class ContainerMemory:
    """The container's memory use: from its control group if that is visible, and from the daemon."""

    def __init__(self) -> None:
        self._group: ControlGroup | None = None
        self._events = MemoryEvents(0, is_at_limit=False)
        self._peak_bytes: int | None = None

    def watch(self, group: ControlGroup | None) -> None:
        self._group = group

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Adds the daemon's report, which doesn't tell the container's own limit from the host's."""
        if state.get("OOMKilled") and not self._events.kills:
            self._events = MemoryEvents(1, is_at_limit=True)

    def memory_events(self) -> MemoryEvents:
        if self._group is not None:
            events = self._group.memory_events()
            if events.kills:
                self._events = events
            self._peak_bytes = max(self._group.peak_memory_bytes() or 0, self._peak_bytes or 0) or None
        return self._events

    def peak_memory_bytes(self) -> int | None:
        return self._peak_bytes


class DockerContainer:
    """A created container, attached; the command waits for `start`. Close it with `destroy`.

    `lost`: why the daemon can't tell how it ended. `is_removed`: somebody else removed it.
    """

    def __init__(self, connection: DockerConnection, container_id: str) -> None:
        self._connection = connection
        self._id = container_id
        self._stream: AttachedStream = connection.attach(container_id)
        self._stdout, stdout = os.pipe2(os.O_CLOEXEC)
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC)
        self._has_output_ended = threading.Event()
        self._init: ProcessIdentity | None = None
        self._state: Mapping[str, Any] | None = None
        self._is_killed = False
        self._is_destroyed = False
        self._inspect_at = 0.0
        self._broken_at: float | None = None
        self.memory = ContainerMemory()
        self.lost: DaemonLost | None = None
        self.is_removed = False
        self._thread = threading.Thread(target=self._carry, args=(stdout, stderr), name="container-output", daemon=True)
        self._thread.start()

    def pump(self, limit_bytes: int, on_output: OnOutput) -> OutputPump:
        """Hands over the ends of the output pipes. Call it once, before `start`."""
        return OutputPump(self._stdout, self._stderr, limit_bytes, on_output)

    def start(self, request: bytes) -> None:
        """Starts it and sends the request, a line that entry.py reads. Raises as DockerConnection.start does."""
        self._connection.start(self._id)
        try:
            pid = int(self._connection.inspect(self._id)["State"]["Pid"])
            group = find_group_of(pid, self._id) if pid else None
            if group is not None:
                self._init = ProcessIdentity.find(pid)
                self.memory.watch(group)
            self._stream.send(request)
        except (ContainerGone, OSError):
            return  # it ended at once; `wait` says how

    def wait(self, timeout_seconds: float) -> bool:
        if self._is_over:
            return True
        has_ended = self._has_output_ended.wait(timeout_seconds)
        if has_ended or time.monotonic() >= self._inspect_at:
            self._look()
            if has_ended and not self._is_over:
                time.sleep(_POLL_SECONDS)
        return self._is_over

    def members(self) -> list[psutil.Process]:
        return []

    def terminate(self) -> None:
        with contextlib.suppress(DaemonLost):
            self._connection.signal(self._id, "SIGTERM")

    def kill(self) -> None:
        if not self._is_over:
            self._is_killed = True
            with contextlib.suppress(DaemonLost):
                self._connection.signal(self._id, "SIGKILL")

    def wait_until_ended(self) -> None:
        """Kills it if necessary and returns when it no longer runs, or the daemon is lost. Raises PlatformError."""
        deadline = time.monotonic() + _GONE_SECONDS
        while not self._is_over:
            self.kill()
            self.wait(_POLL_SECONDS)
            if time.monotonic() > deadline:
                raise PlatformError(f"A container still runs {_GONE_SECONDS:.0f} s after SIGKILL.")
        if self.exit_code() == _KILLED or self.was_init_killed:
            self._await_word_of_memory()

    def exit_code(self) -> int | None:
        """The command's own; None when it did not end by itself."""
        if self._state is None or self._is_killed or self.was_init_killed:
            return None
        code = int(self._state["ExitCode"])
        return _KILLED if code == COMMAND_KILLED else code

    @property
    def was_init_killed(self) -> bool:
        """Whether something outside ended the container's first process."""
        return self._state is not None and not self._is_killed and int(self._state["ExitCode"]) == _KILLED

    def was_ended_from_outside(self) -> bool:
        """Whether an operator or the daemon's own shutdown ended it."""
        if self.is_removed or self._state is None:
            return self.is_removed
        if (self.exit_code() or 0) < 128 and not self.was_init_killed:
            return False
        try:
            return self._connection.kills_from_outside(self._id, self._state)
        except DaemonLost as error:
            self.lost = error
            return False

    def destroy(self) -> None:
        """Returns when no process of it is left. May be called twice.

        Raises DaemonLost when that can't be told: the daemon is away and its processes are out of sight.
        """
        if self._is_destroyed:
            return
        try:
            self._remove()
        finally:
            self._is_destroyed = True
            self._stream.end()
            self._thread.join()
            self._stream.close()

    def _remove(self) -> None:
        deadline = time.monotonic() + (_GONE_SECONDS if self.lost is None else _LOST_SECONDS)
        while True:
            try:
                self._connection.remove(self._id)
                self._connection.inspect(self._id)
            except ContainerGone:
                return
            except DaemonLost:
                if self._init is not None:
                    end_process(self._init)
                    return  # the record of it is removed by the next sweep
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise PlatformError(f"Docker did not remove a container within {_GONE_SECONDS:.0f} s.")
            time.sleep(_POLL_SECONDS)

    @property
    def _is_over(self) -> bool:
        return self._state is not None or self.is_removed or self.lost is not None

    def _look(self) -> None:
        self._inspect_at = time.monotonic() + _INSPECT_SECONDS
        try:
            state = self._connection.inspect(self._id)["State"]
        except ContainerGone:
            self.is_removed = True
        except DaemonLost as error:
            # While the output still comes the daemon is only slow.
            if self._has_output_ended.is_set():
                self.lost = error
        else:
            self.memory.add_state(state)
            if state["Status"] in ("exited", "dead"):
                self._state = state
            elif self._has_output_ended.is_set():
                self._broken_at = self._broken_at or time.monotonic()
                if time.monotonic() - self._broken_at > _END_LAG_SECONDS:
                    self.lost = DaemonLost("The connection to the container's output broke.")

    def _await_word_of_memory(self) -> None:
        """The daemon may learn of a kill for memory after the end that it caused."""
        deadline = time.monotonic() + _MEMORY_WORD_SECONDS
        while not self.memory.memory_events().kills and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            with contextlib.suppress(ContainerGone, DaemonLost):
                self.memory.add_state(self._connection.inspect(self._id)["State"])

    def _carry(self, stdout: int, stderr: int) -> None:
        """Takes the streams apart: frames of a header (stream, three zeros, length) and the data (Engine API)."""
        try:
            while len(header := self._read(8)) == 8:
                target = stderr if header[0] == _STDERR else stdout
                left = int.from_bytes(header[4:], "big")
                while left and (data := self._stream.receive(min(left, _CHUNK_BYTES))):
                    left -= len(data)
                    while data:
                        data = data[os.write(target, data) :]
        except OSError:
            pass  # the connection broke, or nobody wants the output any more
        finally:
            os.close(stdout)
            os.close(stderr)
            self._has_output_ended.set()

    def _read(self, size: int) -> bytes:
        received = b""
        while len(received) < size and (data := self._stream.receive(size - len(received))):
            received += data
        return received
