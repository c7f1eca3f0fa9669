"""The seam between the pipeline and whatever runs a command that nobody trusts."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from workers.executors.mounts import Bind, Overlay
from workers.executors.toolchain import Toolchain


class Outcome(enum.StrEnum):
    SUCCESS = "success"
    USER_ERROR = "user_error"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    DISK_FULL = "disk_full"
    EVICTED = "evicted"
    IMAGE_ERROR = "image_error"
    PLATFORM_LOST = "platform_lost"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `output_bytes`: what the command may print before the rest is dropped.

    `disk_entries`: files, directories and links that it may leave under the watched paths, by their names.
    """

    memory_bytes: int
    cpu_count: float
    process_count: int
    disk_bytes: int
    output_bytes: int
    wall_seconds: float
    stop_seconds: float = 10.0
    disk_entries: int = 1_000_000


@dataclass(frozen=True, slots=True)
class ExecutionSpec:
    """One command. Paths in `command`, `working_directory` and `environment` are inside the sandbox.

    `network`: "none" leaves not even loopback to the host; "proxy" gives HTTP(S)_PROXY to a filtering proxy and
    nothing else. `watched_paths` are the host directories whose size counts against `limits.disk_bytes`, and what is in
    them against `limits.disk_entries`.
    `name` labels cgroups, processes and logs; unique among running executions of a host. `labels` are for people who
    look at what runs, where the executor can show them.
    """

    name: str
    command: tuple[str, ...]
    working_directory: str
    binds: tuple[Bind, ...]
    overlay: Overlay | None
    environment: Mapping[str, str]
    limits: Limits
    network: Literal["none", "proxy"]
    watched_paths: tuple[Path, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """`message` is for people and complete for every outcome but success. `blocked_hosts`: what the proxy refused."""

    outcome: Outcome
    exit_code: int | None
    message: str
    duration_seconds: float
    peak_memory_bytes: int | None
    blocked_hosts: tuple[str, ...] = ()


OnOutput = Callable[[Literal["stdout", "stderr"], bytes], None]


class Executor(Protocol):
    """Runs one command at a time for each thread that asks. `table.py` opens executors by name."""

    @property
    def toolchain(self) -> Toolchain:
        """What its sandboxes hold: the versions are parts of keys, the paths of commands."""
        ...

    def probe(self) -> None:
        """Raises PlatformError with instructions when this host can't run sandboxes. Called once, at start.

        Sweeps as well.
        """
        ...

    def run(self, spec: ExecutionSpec, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        """Runs the command to its end and returns when no process of it is left, whatever the outcome.

        `on_output` is called with raw bytes as they come, from a thread of the executor, one call at a time, and
        never after `run` has returned. Setting `cancel` ends the run: SIGTERM, `stop_seconds`, then the whole
        namespace is killed. Safe to call from several threads at once. Never raises for what the command does;
        raises PlatformError when the sandbox can't be made.
        """
        ...

    def reap(self, name: str) -> None:
        """Kills what an earlier run of this name left (the worker died); returns when nothing of it is left.

        Must be safe to call when nothing was ever started.
        """
        ...

    def sweep(self) -> list[str]:
        """Reaps every run whose worker is gone; returns their names. Runs of live workers are left alone."""
        ...

    def close(self) -> None:
        """Closes connections. Called once, when no run is left or the process ends."""
        ...
