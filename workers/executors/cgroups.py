"""Limits by control groups: version 2 where the worker's own group is delegated to it, version 1 where root has it.

Kernel documentation: admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.executors.base import Limits

_MOUNT = Path("/sys/fs/cgroup")
_PERIOD_MICROSECONDS = 100_000
_PREFIX = "cloudify-"
# Where version 2's own process moves, as a group with members can't have children with controllers.
_WORKER_LEAF = "cloudify-worker"
_V1_CONTROLLERS = ("memory", "pids", "cpu")
_REMOVE_SECONDS = 10.0
# The kernel charges in batches and each CPU holds a few, so a full group may peak a little below its limit.
_CHARGE_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """`kills`: processes killed for memory; `is_at_limit`: the group's own limit was reached, not the host's."""

    kills: int
    is_at_limit: bool


class ControlGroup(ABC):
    """The group of one run, made of one directory (version 2) or one per controller (version 1)."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories

    @abstractmethod
    def configure(self, limits: Limits) -> None:
        """Raises OSError when the kernel refuses a limit."""

    @abstractmethod
    def memory_events(self) -> MemoryEvents: ...

    @abstractmethod
    def peak_memory_bytes(self) -> int | None: ...

    def create(self) -> None:
        for directory in self._directories.values():
            directory.mkdir(exist_ok=True)

    def add(self, pid: int) -> None:
        """Moves a process in; its later children start inside."""
        for path in self.member_files():
            path.write_text(str(pid))

    def member_files(self) -> list[Path]:
        """A process that writes its pid to each of them joins the group, with its later children."""
        return [directory / "cgroup.procs" for directory in self._directories.values()]

    def pids(self) -> set[int]:
        found: set[int] = set()
        for directory in self._directories.values():
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
        return found

    def kill(self) -> None:
        """SIGKILL to every member. Safe when the group doesn't exist."""
        for directory in self._directories.values():
            with contextlib.suppress(OSError):
                (directory / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                try:
                    # Asked again, as the handle may be of a later process with the same pid.
                    if pid in self.pids():
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)

    def remove(self) -> bool:
        """Kills all members and deletes the group; False if a member stays alive. Safe to repeat."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        left = list(self._directories.values())
        while left:
            self.kill()
            left = [directory for directory in left if not _is_removed(directory)]
            if left and time.monotonic() > deadline:
                return False
            if left:
                time.sleep(0.01)
        return True


class _VersionTwo(ControlGroup):
    def configure(self, limits: Limits) -> None:
        directory = self._directories["unified"]
        (directory / "memory.max").write_text(str(limits.memory_bytes))
        if (directory / "memory.swap.max").exists():
            (directory / "memory.swap.max").write_text("0")
        (directory / "memory.oom.group").write_text("1")
        (directory / "pids.max").write_text(str(limits.process_count))
        quota = int(limits.cpu_count * _PERIOD_MICROSECONDS)
        (directory / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")

    def memory_events(self) -> MemoryEvents:
        events = _read_table(self._directories["unified"] / "memory.events")
        return MemoryEvents(events.get("oom_kill", 0), events.get("max", 0) > 0)

    def peak_memory_bytes(self) -> int | None:
        return _read_number(self._directories["unified"] / "memory.peak")


class _VersionOne(ControlGroup):
    def configure(self, limits: Limits) -> None:
        memory = self._directories["memory"]
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        if (memory / "memory.memsw.limit_in_bytes").exists():
            (memory / "memory.memsw.limit_in_bytes").write_text(str(limits.memory_bytes))
        (self._directories["pids"] / "pids.max").write_text(str(limits.process_count))
        cpu = self._directories["cpu"]
        (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
        (cpu / "cpu.cfs_quota_us").write_text(str(int(limits.cpu_count * _PERIOD_MICROSECONDS)))

    def memory_events(self) -> MemoryEvents:
        memory = self._directories["memory"]
        kills = _read_table(memory / "memory.oom_control").get("oom_kill", 0)
        # memory.failcnt stays 0 on recent kernels; a peak at the limit says the same.
        limit = _read_number(memory / "memory.limit_in_bytes") or 0
        return MemoryEvents(kills, is_at_limit=(self.peak_memory_bytes() or 0) >= limit - _CHARGE_BATCH_BYTES)

    def peak_memory_bytes(self) -> int | None:
        return _read_number(self._directories["memory"] / "memory.max_usage_in_bytes")


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """Control groups that the worker may use. `parents`: controller → directory; version 2's is `unified`."""

    parents: Mapping[str, Path]

    @property
    def is_version_two(self) -> bool:
        return "unified" in self.parents

    def group(self, name: str) -> ControlGroup:
        """The group of the run `name`; touches nothing."""
        directories = {controller: parent / f"{_PREFIX}{name}" for controller, parent in self.parents.items()}
        return _VersionTwo(directories) if self.is_version_two else _VersionOne(directories)

    def names(self) -> list[str]:
        """The runs that have a group now, of all workers that share the parents."""
        found = {path.name for parent in self.parents.values() for path in parent.glob(f"{_PREFIX}*")}
        return sorted(name.removeprefix(_PREFIX) for name in found - {_WORKER_LEAF})


def discover_control_groups(membership: str | None = None, mount: Path = _MOUNT) -> ControlGroups | None:
    """None when this host gives the worker no groups. `membership`: the text of /proc/self/cgroup.

    With version 2 the calling process moves into a leaf of its own group, once, to make room for children.
    """
    text = Path("/proc/self/cgroup").read_text() if membership is None else membership
    own = _own_groups(text)
    return _discover_version_two(own.get(""), mount) or _discover_version_one(own, mount)


def find_group_of(pid: int, holding: str, mount: Path = _MOUNT) -> ControlGroup | None:
    """The group of another process, to read from; None unless its path holds the word `holding` and can be read.

    The word proves that the pid, which someone in another pid namespace may have told, is the process that was meant.
    """
    try:
        own = _own_groups(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return None
    unified, memory = (own.get(name, "").lstrip("/") for name in ("", "memory"))
    if memory and holding in memory and (mount / "memory" / memory).is_dir():
        return _VersionOne({"memory": mount / "memory" / memory})
    if holding in unified and (mount / unified / "memory.events").is_file():
        return _VersionTwo({"unified": mount / unified})
    return None


def _own_groups(membership: str) -> dict[str, str]:
    """Controller → path; the empty name is version 2's."""
    own: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    return own


def _discover_version_two(path: str | None, mount: Path) -> ControlGroups | None:
    if path is None:
        return None
    parent = mount / path.lstrip("/")
    if parent.name == _WORKER_LEAF:
        parent = parent.parent
    try:
        if not set(_V1_CONTROLLERS) <= set((parent / "cgroup.controllers").read_text().split()):
            return None
        leaf = parent / _WORKER_LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        (parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    except OSError:
        return None
    return _usable(ControlGroups({"unified": parent}))


def _discover_version_one(own: Mapping[str, str], mount: Path) -> ControlGroups | None:
    parents: dict[str, Path] = {}
    for controller in _V1_CONTROLLERS:
        # In a container the membership names the host's path while the mount shows only the container's own part.
        candidates = [mount / controller / own.get(controller, "").lstrip("/"), mount / controller]
        usable = [path for path in candidates if controller in own and os.access(path / "cgroup.procs", os.W_OK)]
        if not usable:
            return None
        parents[controller] = usable[0]
    return _usable(ControlGroups(parents))


def _usable(groups: ControlGroups) -> ControlGroups | None:
    """Tries a group, as permissions alone don't tell."""
    group = groups.group(f"probe-{os.getpid()}")
    try:
        group.create()
        group.configure(
            Limits(64 * 1024 * 1024, cpu_count=1, process_count=16, disk_bytes=1, output_bytes=1, wall_seconds=1)
        )
        group.memory_events()
    except OSError:
        return None
    finally:
        group.remove()
    return groups


def _is_removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read_table(path: Path) -> dict[str, int]:
    try:
        lines: Iterable[list[str]] = (line.split() for line in path.read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) == 2}
    except (OSError, ValueError):
        return {}


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
