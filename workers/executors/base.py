"""The seam between the pipeline and whatever runs a command that nobody trusts."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

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
class StoredTree:
    """A snapshot, by its content's digest. `owner`: the tenant's id, or "tools" for what all tenants share.

    `size_bytes` of the packed object is known of what an executor has stored.
    """

    owner: str
    digest: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LocalTree:
    """A directory of this worker that a run wrote to; it stays as long as the stage's own directory.

    Paths in it are untrusted: open nothing through its symbolic links.
    """

    path: Path


Tree = StoredTree | LocalTree


@dataclass(frozen=True, slots=True)
class Mount:
    """A tree shown read-only at `target`."""

    tree: Tree
    target: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """`layers` (lowest first, all read-only) merged at `target`. What the command changes there is the tree `name`.

    That tree is in overlayfs form: new and changed files, whiteouts as 0:0 character devices.
    """

    name: str
    target: str
    layers: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Directory:
    """An empty directory on disk at `target`, which the command may write to. What it leaves is the tree `name`."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Output:
    """The tree `name` of the overlay or a directory is wanted after the run; `owner`: whose it is, as of StoredTree."""

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `output_bytes`: what the command may print before the rest is dropped.

    `disk_bytes`: what may lie in the overlay's changes and the directories together; `disk_entries`: how many files,
    directories and links, by their names.
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
    """One command, in terms that hold on any machine. All paths are inside the sandbox.

    `network`: "none" leaves not even loopback to the host; "proxy" gives HTTP(S)_PROXY to a filtering proxy and
    nothing else. Names of the overlay and the directories are plain file names, unique in a stage.
    `name` labels cgroups, processes and logs; unique among running executions of a host. `labels` are for people who
    look at what runs, where the executor can show them.
    """

    name: str
    command: tuple[str, ...]
    working_directory: str
    mounts: tuple[Mount, ...]
    overlay: Overlay | None
    environment: Mapping[str, str]
    limits: Limits
    network: Literal["none", "proxy"]
    directories: tuple[Directory, ...] = ()
    outputs: tuple[Output, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """`message` is for people and complete for every outcome but success. `blocked_hosts`: what the proxy refused.

    `outputs`: name → tree, of each output of the spec when the command ended by itself; incomplete otherwise.
    """

    outcome: Outcome
    exit_code: int | None
    message: str
    duration_seconds: float
    peak_memory_bytes: int | None
    blocked_hosts: tuple[str, ...] = ()
    outputs: Mapping[str, Tree] = field(default_factory=dict[str, Tree])


OnOutput = Callable[[Literal["stdout", "stderr"], bytes], None]


class Trees(Protocol):
    """Where the trees of one stage's runs are on this worker. An executor elsewhere asks for none of it."""

    def attach(self, tree: StoredTree) -> AbstractContextManager[Path]:
        """The tree's directory, fetched where it isn't here; read-only, and it stays for the block.

        Raises PlatformError, also when the snapshot is lost.
        """
        ...

    def make_directory(self, name: str, mode: int) -> Path:
        """A new directory, on the filesystem of all others. Raises OSError."""
        ...


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

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        """Runs the command to its end and returns when no process of it is left, whatever the outcome.

        The time that it takes to attach the spec's trees counts against no limit.

        `on_output` is called with raw bytes as they come, from a thread of the executor, one call at a time, and
        never after `run` has returned. Setting `cancel` ends the run: SIGTERM, `stop_seconds`, then the whole
        namespace is killed. Safe to call from several threads at once. Never raises for what the command does;
        raises PlatformError when a tree is lost or the sandbox
        can't be made.
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
