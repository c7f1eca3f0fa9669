"""Opens directories of untrusted trees: without following links, and even if their permissions shut their owner out.

The owner is this process's user. The modules that walk a tree differ in order, depth and purpose, and keep their walks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_SHUT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str | bytes | Path, parent: int | None = None) -> int:
    """A descriptor of a directory that is no link, made listable and searchable for its owner if necessary.

    The mode is changed by descriptor, so that nothing that replaces the name meanwhile is changed. Raises OSError.
    """
    try:
        descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, _OPEN_SHUT, dir_fd=parent)
        try:
            os.chmod(_path_of(handle), stat.S_IRWXU)  # noqa: PTH101 - by descriptor
            return os.open(_path_of(handle), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(handle)
    if not os.access(_path_of(descriptor), os.X_OK, effective_ids=True):
        os.fchmod(descriptor, stat.S_IRWXU)
    return descriptor


@contextmanager
def opened_below(root: Path, path: str) -> Generator[int]:
    """The descriptor of a directory below `root`, reached without following links. Changes no modes.

    `path` is relative; empty parts and "." are skipped. Raises OSError, with ENOENT for "..".
    """
    descriptor = os.open(root, OPEN_DIRECTORY)
    try:
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part == ".." or "\0" in part:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part)
            child = os.open(part, OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = child
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_parent(root: Path, path: str) -> Generator[tuple[int, str]]:
    """The descriptor of the directory that a file below `root` is in, and the file's name. See `opened_below`."""
    directory, _, name = path.rpartition("/")
    with opened_below(root, directory) as descriptor:
        yield descriptor, name


def _path_of(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
