"""Takes the setuid and setgid bits off what a sandbox leaves.

The system-call filter refuses them inside; this holds should a kernel have a call that the filter doesn't know, and
for bits that a directory inherits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from workers.executors.base import ExecutionSpec

_SET_ID = stat.S_ISUID | stat.S_ISGID
# Below PATH_MAX (4096) by more than the longest name. Deeper directories are reached through a descriptor on the way.
_LONGEST_PATH = 3500
_OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def writable_paths(spec: ExecutionSpec) -> tuple[Path, ...]:
    """Host directories that the command could write to."""
    upper = () if spec.overlay is None else (spec.overlay.upper,)
    return (*upper, *(bind.source for bind in spec.binds if bind.is_writable))


def strip_set_id_bits(paths: Iterable[Path]) -> None:
    """Follows no link. Nobody may write there any more: every process of the sandbox is gone. Raises OSError."""
    pending: list[_Place] = []
    for path in paths:
        status = path.lstat()
        _strip(os.fspath(path), status)
        if stat.S_ISDIR(status.st_mode):
            pending.append(_Place(os.fspath(path)))
    while pending:
        place = pending.pop()
        _open_to_owner(place.path)
        with os.scandir(place.path) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                _strip(entry.path, status)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(place.below(entry.path))


class _Place:
    """A directory by a path that can be opened, however deep it lies."""

    def __init__(self, path: str, descriptor: _Descriptor | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    def below(self, path: str) -> _Place:
        if len(os.fsencode(path)) < _LONGEST_PATH:
            return _Place(path, self._descriptor)
        descriptor = _Descriptor(os.open(path, _OPEN_DIRECTORY))
        return _Place(f"/proc/self/fd/{descriptor.number}", descriptor)


class _Descriptor:
    """Open for as long as a place below it is to be visited."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def _open_to_owner(path: str) -> None:
    """Builds may shut a directory to its owner, who is this process's user."""
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        os.chmod(path, stat.S_IRWXU)  # noqa: PTH101


def _strip(path: str, status: os.stat_result) -> None:
    if status.st_mode & _SET_ID and not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode) & ~_SET_ID)  # noqa: PTH101
