"""Opens directories that a build may have shut to their owner, this process's user, or put a link in the place of."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_SHUT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str | bytes | Path, parent: int | None = None) -> int:
    """A descriptor of a directory that is no link; one that was shut can be listed and searched from here on.

    The mode is changed by descriptor: whatever comes to the name's place meanwhile stays as it is. Raises OSError.
    """
    try:
        descriptor = os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, _OPEN_SHUT, dir_fd=parent)
        try:
            os.chmod(_path_of(handle), stat.S_IRWXU)  # noqa: PTH101
            return os.open(_path_of(handle), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(handle)
    if not os.access(_path_of(descriptor), os.X_OK, effective_ids=True):
        os.fchmod(descriptor, stat.S_IRWXU)
    return descriptor


def _path_of(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
