"""Files on a worker's host that prove that its process is alive, with a heartbeat.

Each process has one file in `<home>/run/workers`. It holds a record lock on the file, which children don't inherit and
which the kernel releases when the process ends for any reason. A plain thread writes to the file every second.

- A process that gets the lock knows that the owner has ended, without clocks, process ids or host names.
- A file that doesn't change belongs to a process that is stopped or whose interpreter is blocked, independent of Redis.
- A process that kills another one for that reason writes a verdict first, so that the verdict survives both. It applies
  to one beat: if the process survives, its next beat invalidates the verdict.
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from shared.background import PeriodicTask
from shared.errors import Unavailable

_log: Any = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
# After this time, the counter of memory kills may have increased because of another process.
_FRESH_SECONDS = 10.0
_BYTES = 1024
# Longer than any start of a process, and any kill after a verdict, takes.
_SWEPT_AFTER_SECONDS = 3600.0
_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


class Verdict(enum.StrEnum):
    """Why a worker was killed, if its job may be the cause."""

    HEARTBEAT = "heartbeat"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """The memory kills in a control group's `counter` file. `device` and `inode` identify the file, because the same
    path is another file in another container."""

    counter: str
    device: int
    inode: int
    kills: int


@dataclass(frozen=True, slots=True)
class Life:
    """`memory`: the kernel's memory kills in the process's control group at the last beat; None if unknown."""

    worker: str
    pool: str
    pid: int
    memory: MemoryKills | None
    beats: int


def lives_directory(home: Path) -> Path:
    return home / "run" / "workers"


def read_life(path: Path) -> Life | None:
    """Returns None if the file is missing or damaged."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def record_verdict(path: Path, verdict: Verdict, beat: int) -> None:
    """Writes the verdict. Call it before killing the process. `beat`: st_mtime_ns of the file. Raises OSError."""
    partial = path.with_suffix(".verdict.partial")
    partial.write_text(json.dumps([verdict, beat]))
    partial.replace(path.with_suffix(".verdict"))


def read_verdict(path: Path) -> Verdict | None:
    """Returns the verdict, or None if there is none or the process has had another beat since."""
    try:
        verdict, beat = json.loads(path.with_suffix(".verdict").read_text())
        return Verdict(verdict) if beat == path.stat().st_mtime_ns else None
    except (OSError, ValueError, TypeError):
        return None


class WorkerLife:
    """The file of this process, from `start` to `stop`. Of several in a process, only the last is known as its own."""

    def __init__(
        self, directory: Path, worker: str, pool: str, *, membership: Path = _MEMBERSHIP, mount: Path = _MOUNT
    ) -> None:
        """`membership` lists the control groups of the process, which are mounted at `mount`."""
        self.path = directory / f"{worker}.life"
        self._membership = membership
        self._mount = mount
        self._life = Life(worker, pool, os.getpid(), None, 0)
        self._descriptor = -1
        self._task = PeriodicTask("worker-life", self._beat, BEAT_SECONDS, waits_first=True)

    def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The file is renamed with the lock held, so that nobody mistakes it for a dead process's file.
        partial = self.path.with_suffix(".partial")
        self._descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write()
        partial.replace(self.path)
        self._task.start()

    def stop(self) -> None:
        """Deletes the file. Call it after all leases are released, because others find them by the file."""
        self._task.stop()
        self.path.with_suffix(".verdict").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _beat(self) -> None:
        try:
            self._write()
        except OSError as error:
            _log.warning("worker.heartbeat_failed", error=str(error))
            # Works on a full disk too, because it needs no space.
            with suppress(OSError):
                os.utime(self._descriptor)

    def _write(self) -> None:
        # Looked up each time, because the executor moves this process into its own group after the start.
        memory = _own_memory_kills(self._membership, self._mount)
        self._life = replace(self._life, memory=memory, beats=self._life.beats + 1)
        # One write of constant length: readers never see a part of it, and the space is already allocated.
        os.pwrite(self._descriptor, json.dumps(asdict(self._life)).encode().ljust(_BYTES), 0)


class DeadWorkers:
    """Finds dead workers of this host and hands their jobs back.

    `hand_back(pool, worker, counts)` raises Unavailable while the queue is unavailable, and is then called again; it
    must be idempotent. `counts`: the death counts against the jobs.
    """

    def __init__(self, directory: Path, own: WorkerLife, hand_back: Callable[[str, str, bool], object]) -> None:
        self._directory = directory
        self._own = own.path
        self._hand_back = hand_back
        self._task = PeriodicTask("dead-workers", self._look_again, BEAT_SECONDS)

    def start(self) -> None:
        """Checks now and every second. Every worker of the host does so for all others, of any pool."""
        self._task.start()

    def stop(self) -> None:
        self._task.stop()

    def look(self) -> None:
        for path in sorted(self._directory.glob("*.life")):
            # The own file must not be opened: closing it would release the lock.
            if path != self._own:
                self._look_at(path)
        self._sweep()

    def _look_again(self) -> None:
        try:
            self.look()
        except (OSError, Unavailable) as error:
            _log.warning("worker.hand_back_delayed", error=str(error))

    def _sweep(self) -> None:
        """Deletes files of failed starts, and verdicts on processes that ended by themselves."""
        horizon = time.time() - _SWEPT_AFTER_SECONDS
        for pattern in ("*.partial", "*.verdict"):
            for path in self._directory.glob(pattern):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < horizon and not path.with_suffix(".life").exists():
                        path.unlink()

    def _look_at(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return  # it is alive, or another process handles it
        else:
            life = read_life_of(descriptor)
            if life is not None:
                verdict = _judge(path, life, os.fstat(descriptor))
                self._hand_back(life.pool, life.worker, verdict is not None)
                _log.warning("worker.gone", worker=life.worker, pool=life.pool, verdict=verdict)
            path.with_suffix(".verdict").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def read_life_of(descriptor: int) -> Life | None:
    """As `read_life`, without a second descriptor: closing that would release the lock."""
    try:
        return _parse(os.pread(descriptor, _BYTES * 8, 0))
    except OSError:
        return None


def _parse(text: bytes) -> Life | None:
    try:
        fields = json.loads(text)
        memory = fields.pop("memory")
        return Life(**fields, memory=None if memory is None else MemoryKills(**memory))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _judge(path: Path, life: Life, status: os.stat_result) -> Verdict | None:
    """Returns the written verdict, or MEMORY if the kernel killed a process of the group since the last beat.

    Returns None in doubt. A found verdict is written, because the counter shows it only now.
    """
    verdict, before = read_verdict(path), life.memory
    if verdict is not None or before is None or not 0 <= time.time() - status.st_mtime < _FRESH_SECONDS:
        return verdict
    now = _read_memory_kills(before.counter)
    if now is None or now.kills <= before.kills or now != replace(before, kills=now.kills):
        return None
    record_verdict(path, Verdict.MEMORY, status.st_mtime_ns)
    return Verdict.MEMORY


def _own_memory_kills(membership: Path, mount: Path) -> MemoryKills | None:
    """Returns the kills in the control group of the process, without subgroups."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return None
    for _number, controllers, group in lines:
        if controllers == "":
            root, name = mount, "memory.events.local"
        elif "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.oom_control"
        else:
            continue
        # In a container the membership may show the host's path, while the mount has only the container's part.
        for directory in (root / group.lstrip("/"), root):
            found = _read_memory_kills(str(directory / name))
            if found is not None:
                return found
    return None


def _read_memory_kills(counter: str) -> MemoryKills | None:
    try:
        with open(counter) as file:  # noqa: PTH123 - the same file is asked what it is
            status = os.fstat(file.fileno())
            table = dict(line.split() for line in file)
        return MemoryKills(counter, status.st_dev, status.st_ino, int(table["oom_kill"]))
    except (OSError, ValueError, KeyError):
        return None
