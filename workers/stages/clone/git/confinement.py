"""Limits programs that the worker itself runs on untrusted data: git, ssh, and their children.

With control groups the kernel limits all of them together. Without, RLIMIT_DATA limits each process, and the worker
watches the sum.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.plans import PlanLimits
from workers.executors.base import Limits
from workers.executors.cgroups import ControlGroup, ControlGroups
from workers.stages.clone.git.trace import GitTrace

_NAME_PREFIX = "git-"
_numbers = itertools.count(1)
_MEASURE_SECONDS = 0.3
_MEBIBYTE = 1024 * 1024
# A file may exceed the disk limit by this before SIGXFSZ, so that measuring the directory notices it first.
_FILE_SIZE_MARGIN = 64 * _MEBIBYTE
# A shell's `ulimit -f` counts these (POSIX).
_BLOCK_BYTES = 512
# Ends with random digits, so that no server and no file name can imitate it.
_NOT_CONFINED = f"cloudify: the limits of this program are refused ({os.urandom(8).hex()})"
# Arguments: blocks of a file, KiB of data or "-", paths of cgroup.procs, "--", the command. The stack is unlimited
# because git recurses into directories: the limits here end it, not a crash.
_SCRIPT = f"""\
fail() {{ echo '{_NOT_CONFINED}' >&2; exit 125; }}
ulimit -c 0
ulimit -S -s unlimited 2>/dev/null
ulimit -f "$1" || fail
[ "$2" = - ] || ulimit -d "$2" || fail
shift 2
while [ "$1" != -- ]; do echo $$ > "$1" || fail; shift; done
shift
exec "$@"
"""
_NO_MEMORY = re.compile(r"[Oo]ut of memory|(?:.*: )?Cannot allocate memory\Z|unable to create thread", re.DOTALL)
_TRIED_TO_ALLOCATE = re.compile(r"tried to allocate (\d+) bytes")


class Confinement:
    """The limits of one clone's programs. Made by `opened`; not shared between threads."""

    def __init__(self, limits: PlanLimits, group: ControlGroup | None) -> None:
        self._limits = limits
        self._group = group
        self._measure_at = 0.0

    @classmethod
    @contextmanager
    def opened(cls, groups: ControlGroups | None, name: str, limits: PlanLimits) -> Generator[Confinement]:
        """Kills the group's remaining processes when the context ends. `groups` is None if the host has no control
        groups for the worker.

        Raises PlatformError if the kernel refuses to create a group.
        """
        if groups is None:
            yield cls(limits, None)
            return
        _remove_abandoned(groups)
        group = groups.group(f"{_own_prefix()}{next(_numbers)}-{name}")
        try:
            try:
                group.create()
                group.configure(_group_limits(limits))
            except OSError as error:
                raise PlatformError(f"The control group of the clone {name} can't be created: {error}.") from error
            yield cls(limits, group)
        finally:
            group.remove()

    def command(self, command: Sequence[str]) -> list[str]:
        """The argv that applies the limits, then executes `command`."""
        blocks = (self._limits.disk_bytes + _FILE_SIZE_MARGIN) // _BLOCK_BYTES
        data = str(self._limits.memory_bytes // 1024) if self._group is None else "-"
        members = [] if self._group is None else [str(path) for path in self._group.member_files()]
        return ["/bin/sh", "-c", _SCRIPT, "sh", str(blocks), data, *members, "--", *command]

    def check_memory(self, pid: int) -> None:
        """Raises StageFailure if the running program and its children together exceed the memory limit."""
        if self._group is not None or time.monotonic() < self._measure_at:
            return
        import psutil

        from workers.executors.process_tree import descendants, resident_bytes

        try:
            processes = [psutil.Process(pid), *descendants(pid)]
        except psutil.Error:
            return
        if resident_bytes(processes) > self._limits.memory_bytes:
            raise self._out_of_memory()
        self._measure_at = time.monotonic() + _MEASURE_SECONDS

    def find_failure(self, program: str, return_code: int, stderr: str, trace: GitTrace) -> Exception | None:
        """Why a failed program was ended from outside, or None. `trace` is empty for a program other than git.

        Returns StageFailure if it exceeded a limit of the plan, PlatformError if a signal ended it otherwise.
        """
        events = None if self._group is None else self._group.memory_events()
        if events is not None and events.kills:
            if events.is_at_limit:
                return self._out_of_memory()
            return PlatformError(f"The worker's host ran out of memory and ended {program}.")
        number = -return_code if return_code < 0 else trace.child_signal or 0
        if number == signal.SIGXFSZ:
            return too_large(self._limits.disk_bytes)
        if number:
            return PlatformError(f"{program}, or a program that it started, was ended by {_signal_name(number)}.")
        if return_code == 125 and _NOT_CONFINED in stderr:
            return PlatformError(f"{program} could not be started within its limits: {stderr.strip()[-300:]}")
        said = next((message for message in trace.messages if _NO_MEMORY.match(message)), None)
        if said is not None:
            tried = _TRIED_TO_ALLOCATE.search(said)
            is_beyond = tried is not None and int(tried[1]) > self._limits.memory_bytes
            if self._group is None or is_beyond:
                return self._out_of_memory()
            return PlatformError(f"The worker's host has no memory left for {program}.")
        return None

    def _out_of_memory(self) -> StageFailure:
        return StageFailure(
            FailureCode.OUT_OF_MEMORY,
            f"Fetching the repository needed more than {self._limits.memory_bytes // _MEBIBYTE} MiB of memory and was "
            "ended. Deploy a repository with fewer or smaller files, or use a plan with more memory.",
        )


def too_large(maximum_bytes: int) -> StageFailure:
    """The failure of a repository that takes more disk than the plan allows."""
    return StageFailure(
        FailureCode.REPOSITORY_TOO_LARGE,
        f"The repository takes more than the {maximum_bytes >> 20} MiB of disk that the plan allows. Remove large "
        "files from it, or ask for a larger plan.",
    )


def _group_limits(limits: PlanLimits) -> Limits:
    return Limits(
        memory_bytes=limits.memory_bytes,
        cpu_count=limits.cpu_count,
        process_count=limits.process_count,
        disk_bytes=limits.disk_bytes,
        output_bytes=0,
        wall_seconds=float(limits.stage_timeout_seconds),
    )


def _own_prefix() -> str:
    """Names this process, so that others can tell whether the group's owner is alive."""
    from workers.executors.process_tree import ProcessIdentity

    own = ProcessIdentity.find(os.getpid())
    assert own is not None
    return f"{_NAME_PREFIX}{own.pid}-{own.started}-"


def _remove_abandoned(groups: ControlGroups) -> None:
    """Kills the processes that dead workers left on this host, and deletes their groups."""
    from workers.executors.process_tree import ProcessIdentity

    for name in groups.names():
        owner = re.match(rf"{_NAME_PREFIX}(\d+)-(\d+)-", name)
        if owner is not None and not ProcessIdentity(int(owner[1]), int(owner[2])).is_alive:
            groups.group(name).remove()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
