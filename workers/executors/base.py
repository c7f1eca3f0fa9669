"""The seam between the pipeline and the executors, which run untrusted commands."""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from workers.egress.accounts import Traffic
from workers.executors.toolchain import Toolchain

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class RunOutcome(enum.StrEnum):
    """How a command ended. How a job ended is workers.pipeline.outcome.Outcome."""

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
    """A snapshot, by its content's digest. `owner`: the tenant's id, or "tools" for those that all tenants share.

    `size_bytes`: of the packed object; set on trees that an executor has stored.
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
    """`layers` (lowest first, all read-only) merged at `target`. The command's changes are the tree `name`.

    That tree is in overlayfs form: new and changed files, whiteouts as 0:0 character devices.
    """

    name: str
    target: str
    layers: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Directory:
    """An empty directory on disk at `target`, writable for the command; afterwards the tree `name`."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Output:
    """Asks for the tree `name` of the overlay or a directory after the run. `owner`: as in StoredTree."""

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `output_bytes`: how much output is kept; the rest is dropped.

    `disk_bytes` bounds the overlay's changes and the directories together; `disk_entries` the number of files,
    directories and links in them, counted by name.
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
    `name` labels cgroups, processes and logs; unique among the running executions of a host. `labels` are shown to
    operators where the executor can show them.
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
    """`message` is for people, and empty only for success. `traffic`: what went through the proxy.

    `outputs`: name → tree, of each output of the spec when the command succeeded; incomplete otherwise.
    """

    outcome: RunOutcome
    exit_code: int | None
    message: str
    duration_seconds: float
    peak_memory_bytes: int | None
    traffic: Traffic = field(default_factory=Traffic)
    outputs: Mapping[str, Tree] = field(default_factory=dict[str, Tree])


def is_run_name(name: str) -> bool:
    """Whether a run may have the name: it names the run's directory, its control group and its container."""
    return _RUN_NAME.fullmatch(name) is not None


def check_run_name(name: str) -> None:
    """Raises ValueError unless `is_run_name`."""
    if not is_run_name(name):
        raise ValueError(f"{name!r} can't name a run: letters, digits, '.', '_' and '-', at most 120.")


OnOutput = Callable[[Literal["stdout", "stderr"], bytes], None]


@dataclass(frozen=True, slots=True)
class TreeLink:
    """An address that gives a tree's tarball to anybody for a while, and the digest of its content."""

    url: str
    digest: str


@dataclass(frozen=True, slots=True)
class UploadForm:
    """An HTTP form (`multipart/form-data`, the file last) that stores one object; key and largest size are signed."""

    url: str
    fields: Mapping[str, str]
    maximum_bytes: int


class Trees(Protocol):
    """The trees of one stage's runs.

    `attach` and `make_directory` are for executors whose sandboxes are on this host, the other methods for those that
    run commands elsewhere: their sandboxes read and write objects of the store by links.
    """

    def attach(self, tree: StoredTree) -> AbstractContextManager[Path]:
        """The tree's directory, fetched if it isn't cached; read-only, and pinned for the block.

        Raises PlatformError, also when the snapshot is lost.
        """
        ...

    def make_directory(self, name: str, mode: int) -> Path:
        """A new directory, on the same filesystem as the others. Raises OSError."""
        ...

    def link(self, tree: Tree, seconds: int) -> TreeLink:
        """A link to read the tree by, valid for `seconds`. Raises PlatformError, also when the snapshot is lost."""
        ...

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> UploadForm:
        """A form that stores an output under the staging name `key`, valid for `seconds`."""
        ...

    def take_in(self, output: Output, key: str) -> Tree:
        """Checks the tarball under the staging name, which a sandbox wrote, and stores it by its content.

        The staging object is deleted. Raises PlatformError if it is missing or malformed.
        """
        ...

    def discard_staged(self, key: str) -> None:
        """Deletes the staging object if there is one. Raises PlatformError."""
        ...


class Executor(Protocol):
    """Runs commands, one per calling thread. `table.py` opens executors by name."""

    @property
    def toolchain(self) -> Toolchain:
        """The tools in its sandboxes: versions become part of cache keys, paths part of commands."""
        ...

    def probe(self) -> None:
        """Raises PlatformError with instructions when this host can't run sandboxes. Called once, at start.

        Calls `sweep` first.
        """
        ...

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        """Runs the command to its end and returns when no process of it is left, whatever the outcome.

        The time that it takes to attach the spec's trees counts against no limit.

        `on_output` receives raw bytes as they arrive, from a thread of the executor, one call at a time, and
        never after `run` has returned. Setting `cancel` ends the run: SIGTERM, `stop_seconds`, then the whole
        namespace is killed. Safe to call from several threads at once. Raises PlatformError when a tree is lost or the
        sandbox can't be made, StageFailure when an output that the executor stores itself holds what no snapshot
        carries; never otherwise because of the command.
        """
        ...

    def take_over(self, name: str) -> None:
        """Called before a new attempt of runs named `name`, whose worker may have died.

        Where runs end with their worker it is `reap`. Otherwise runs stay, and `run` continues one of the same command.
        """
        ...

    def reap(self, name: str) -> None:
        """Kills the remains of an earlier run of this name whose worker died; returns when nothing is left.

        Safe to call if no such run was ever started.
        """
        ...

    def sweep(self) -> list[str]:
        """Reaps every run whose worker is gone; returns their names. Runs of live workers are left alone."""
        ...

    def close(self) -> None:
        """Closes connections. Called once, when no run is left or the process ends."""
        ...
