"""What a worker process leaves on its host's disk while it lives: proof that it lives, and a heartbeat.

Each process has one file in `<home>/run/workers`. It holds a lock on it (a record lock, which children don't inherit
and which the kernel gives back with the process, however it ends), and writes into it each second from a plain thread.

- Who gets the lock knows that the process is gone; no clock, process id or host name is asked.
- A file that doesn't change belongs to a process that is stopped, or whose interpreter is held. Redis plays no part.
- Who ends a process for that writes the verdict first, so that it outlives both. It is about one beat: should the
  process live on, its next one makes the verdict void.
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
# Above it the memory killer's counter may have risen for another process's sake.
_FRESH_SECONDS = 10.0
_BYTES = 1024
# No start, and no end that a verdict was for, takes so long.
_SWEPT_AFTER_SECONDS = 3600.0
_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


class Verdict(enum.StrEnum):
    """Why a worker was ended, where that speaks against the job that it ran."""

    HEARTBEAT = "heartbeat"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """What a control group's `counter`, a file, said. `device` and `inode` are that file's: by its path another
    container finds its own."""

    counter: str
    device: int
    inode: int
    kills: int


@dataclass(frozen=True, slots=True)
class Life:
    """`memory`: how many processes of its control group the kernel had ended at the last beat; None: unknown."""

    worker: str
    pool: str
    pid: int
    memory: MemoryKills | None
    beats: int


def lives_directory(home: Path) -> Path:
    return home / "run" / "workers"


def read_life(path: Path) -> Life | None:
    """None when the file is gone or damaged."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def pronounce(path: Path, verdict: Verdict, beat: int) -> None:
    """Call it before the process is ended. `beat`: the last one seen, the file's st_mtime_ns. Raises OSError."""
    partial = path.with_suffix(".verdict.partial")
    partial.write_text(json.dumps([verdict, beat]))
    partial.replace(path.with_suffix(".verdict"))


def verdict_on(path: Path) -> Verdict | None:
    """None when there is none, or when the process had another beat since."""
    try:
        verdict, beat = json.loads(path.with_suffix(".verdict").read_text())
        return Verdict(verdict) if beat == path.stat().st_mtime_ns else None
    except (OSError, ValueError, TypeError):
        return None


class WorkerLife:
    """The file of this process, from `start` to `stop`. A process that has several knows only the last as its own."""

    def __init__(
        self, directory: Path, worker: str, pool: str, *, membership: Path = _MEMBERSHIP, mount: Path = _MOUNT
    ) -> None:
        """`membership` says which control groups the process is in, `mount` shows them."""
        self.path = directory / f"{worker}.life"
        self._membership = membership
        self._mount = mount
        self._life = Life(worker, pool, os.getpid(), None, 0)
        self._descriptor = -1
        self._task = PeriodicTask("worker-life", self._beat, BEAT_SECONDS, waits_first=True)

    def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # It appears under its name with the lock held, so that nobody takes it for a dead one's.
        partial = self.path.with_suffix(".partial")
        self._descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write()
        partial.replace(self.path)
        self._task.start()

    def stop(self) -> None:
        """Only after the leases are handed back: the file is what others find them by."""
        self._task.stop()
        self.path.with_suffix(".verdict").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _beat(self) -> None:
        try:
            self._write()
        except OSError as error:
            _log.warning("worker.heartbeat_failed", error=str(error))
            # A full disk is no reason to look dead: this needs no space.
            with suppress(OSError):
                os.utime(self._descriptor)

    def _write(self) -> None:
        # Looked up each time: the executor moves this process into a group of its own after its start.
        memory = _own_memory_kills(self._membership, self._mount)
        self._life = replace(self._life, memory=memory, beats=self._life.beats + 1)
        # Of one length and in one call: a reader never sees half of it, and a full disk has its place already.
        os.pwrite(self._descriptor, json.dumps(asdict(self._life)).encode().ljust(_BYTES), 0)


class DeadWorkers:
    """Finds the workers of this host that are gone, and has what they held handed back.

    `hand_back(pool, worker, counts)` raises Unavailable while the queue is away; it is called again then, and must bear
    to be. `counts`: the death speaks against the jobs.
    """

    def __init__(self, directory: Path, own: WorkerLife, hand_back: Callable[[str, str, bool], object]) -> None:
        self._directory = directory
        self._own = own.path
        self._hand_back = hand_back
        self._task = PeriodicTask("dead-workers", self._look_again, BEAT_SECONDS)

    def start(self) -> None:
        """Looks at once, and each second: any worker of the host does it for any other, of whichever pool."""
        self._task.start()

    def stop(self) -> None:
        self._task.stop()

    def look(self) -> None:
        for path in sorted(self._directory.glob("*.life")):
            # Our own must not even be opened: to close it would give up the lock.
            if path != self._own:
                self._look_at(path)
        self._sweep()

    def _look_again(self) -> None:
        try:
            self.look()
        except (OSError, Unavailable) as error:
            _log.warning("worker.hand_back_delayed", error=str(error))

    def _sweep(self) -> None:
        """Deletes what starts that died, and verdicts on processes that went by themselves, left behind."""
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
            return  # it lives, or another one looks after it
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
    """As `read_life`, without a second descriptor, whose end would end the lock."""
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
    """What was pronounced; else whether the kernel's memory killer ended a process of its group since the last beat.

    In doubt None. What is found is written down: the counter tells it only now.
    """
    verdict, before = verdict_on(path), life.memory
    if verdict is not None or before is None or not 0 <= time.time() - status.st_mtime < _FRESH_SECONDS:
        return verdict
    now = _read_memory_kills(before.counter)
    if now is None or now.kills <= before.kills or now != replace(before, kills=now.kills):
        return None
    pronounce(path, Verdict.MEMORY, status.st_mtime_ns)
    return Verdict.MEMORY


def _own_memory_kills(membership: Path, mount: Path) -> MemoryKills | None:
    """Of the group that the process is in, subgroups not included."""
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
        # In a container the membership may name the host's path while the mount shows only the container's own part.
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
