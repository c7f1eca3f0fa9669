"""Watches a running sandbox against its limits and decides how the run ended."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import Protocol

import psutil

from workers.executors.attachments import Run
from workers.executors.base import RunOutcome
from workers.executors.cgroups import MemoryEvents
from workers.executors.disk_watchdog import DiskWatchdog, is_disk_full
from workers.executors.output_pump import OutputPump
from workers.executors.process_tree import resident_bytes

_POLL_SECONDS = 0.1
_MEASURE_SECONDS = 0.3
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended, and the message that says so to people."""

    outcome: RunOutcome
    message: str


class Sandbox(Protocol):
    """A running sandbox. No method raises once it has ended."""

    def wait(self, timeout_seconds: float) -> bool:
        """True once the command has ended."""
        ...

    def terminate(self) -> None:
        """SIGTERM to every process inside."""
        ...

    def kill(self) -> None:
        """SIGKILL to all of it."""
        ...

    def members(self) -> list[psutil.Process]:
        """Its processes on the host; called only when no control group accounts for memory."""
        ...


class MemoryAccount(Protocol):
    """The kernel's memory accounting of a sandbox; it still answers when the sandbox is gone."""

    def memory_events(self) -> MemoryEvents: ...

    def peak_memory_bytes(self) -> int | None: ...


class RunMonitor:
    """Call `watch` in the thread of the run, and the rest after it has returned."""

    def __init__(
        self,
        run: Run,
        sandbox: Sandbox,
        group: MemoryAccount | None,
        disk: DiskWatchdog,
        pump: OutputPump,
    ) -> None:
        self._run = run
        self._limits = run.spec.limits
        self._sandbox = sandbox
        self._group = group
        self._disk = disk
        self._pump = pump
        self._peak_bytes: int | None = None
        self._measure_at = 0.0

    def watch(self) -> RunEnd | None:
        """Returns when the command has ended: how the monitor ended it, or None if it ended by itself."""
        end: RunEnd | None = None
        kill_at: float | None = None
        while not self._sandbox.wait(_POLL_SECONDS):
            urgent = self._exceeded()
            if urgent is not None:
                self._sandbox.kill()
                return end or urgent
            if self._pump.error is not None:
                self._sandbox.kill()
                return end
            if kill_at is None:
                end = self._stop_wanted()
                if end is not None:
                    kill_at = time.monotonic() + self._limits.stop_seconds
                    self._sandbox.terminate()
            elif time.monotonic() >= kill_at:
                self._sandbox.kill()
                return end
        return end

    def conclude(self, end: RunEnd | None, exit_code: int | None, launcher_code: int | None) -> RunEnd:
        """The end to report when every process is gone. `exit_code` None: the command did not end by itself."""
        if end is not None:
            return end
        memory = self._memory_exceeded()
        if memory is not None:
            return memory
        if exit_code == 0 and not self._disk.is_near_limit:
            return RunEnd(RunOutcome.SUCCESS, "")
        self._disk.measure()
        if self._disk.exceeded.is_set():
            return self._disk_full()
        if exit_code == 0:
            return RunEnd(RunOutcome.SUCCESS, "")
        if is_disk_full(self._run.attachments.writable_paths):
            return RunEnd(RunOutcome.PLATFORM_LOST, "The worker's own disk is full; the command was not at fault.")
        if exit_code is None:
            return RunEnd(RunOutcome.PLATFORM_LOST, f"Something outside ended the sandbox (status {launcher_code}).")
        return RunEnd(RunOutcome.USER_ERROR, exit_message(exit_code))

    def peak_memory_bytes(self) -> int | None:
        return self._peak_bytes if self._group is None else self._group.peak_memory_bytes()

    def _stop_wanted(self) -> RunEnd | None:
        if self._run.cancel.is_set():
            return RunEnd(RunOutcome.CANCELLED, "The command was cancelled.")
        if time.monotonic() >= self._run.deadline:
            limit = f"{self._limits.wall_seconds:g} seconds"
            return RunEnd(RunOutcome.TIMEOUT, f"The command was stopped: it ran longer than its limit of {limit}.")
        return None

    def _exceeded(self) -> RunEnd | None:
        """A passed limit that calls for an immediate kill."""
        if self._disk.exceeded.is_set():
            return self._disk_full()
        if self._group is not None:
            return self._memory_exceeded()
        if time.monotonic() < self._measure_at:
            return None
        used = resident_bytes(self._sandbox.members())
        self._measure_at = time.monotonic() + _MEASURE_SECONDS
        self._peak_bytes = max(used, self._peak_bytes or 0)
        return self._out_of_memory() if used > self._limits.memory_bytes else None

    def _memory_exceeded(self) -> RunEnd | None:
        if self._group is None:
            return None
        events = self._group.memory_events()
        if not events.kills:
            return None
        if not events.is_at_limit:
            return RunEnd(RunOutcome.PLATFORM_LOST, "The worker's host ran out of memory and ended the command.")
        return self._out_of_memory()

    def _out_of_memory(self) -> RunEnd:
        limit = self._limits.memory_bytes // _MEBIBYTE
        message = f"The command ran out of memory: its limit is {limit} MiB, files in /tmp and HOME included."
        return RunEnd(RunOutcome.OUT_OF_MEMORY, message)

    def _disk_full(self) -> RunEnd:
        limits = self._limits
        if self._disk.has_too_many_entries:
            what = f"it made more files, directories and links than its limit of {limits.disk_entries}."
        else:
            what = (
                f"it wrote more than its limit of {limits.disk_bytes // _MEBIBYTE} MiB, or nested directories too"
                " deeply to be measured."
            )
        return RunEnd(RunOutcome.DISK_FULL, f"The command was stopped: {what}")


def exit_message(exit_code: int) -> str:
    if exit_code > 128:
        try:
            return f"The command was ended by {signal.Signals(exit_code - 128).name} (exit code {exit_code})."
        except ValueError:
            pass
    hint = {126: ": it can't be executed", 127: ": there is no such program"}.get(exit_code, "")
    return f"The command exited with code {exit_code}{hint}."
