"""Removes setuid and setgid bits from files that a sandbox leaves.

The system-call filter already refuses to set them. This covers system calls that the filter doesn't know, and bits
that are inherited from a directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from workers.filesystem.descent import open_directory

_SET_ID = stat.S_ISUID | stat.S_ISGID


def strip_set_id_bits(paths: Iterable[Path]) -> None:
    """Follows no link. Call it when every process of the sandbox is gone. Raises OSError."""
    for path in paths:
        status = path.lstat()
        _strip(os.fspath(path), status)
        if stat.S_ISDIR(status.st_mode):
            _strip_below(path)


def _strip_below(top: Path) -> None:
    """Keeps one directory open at a time and enters it from its parent, so that any depth and breadth works."""
    directory = open_directory(os.fspath(top))
    try:
        # The directories still to be entered, of each directory on the way from the top to the open one.
        pending = [_strip_entries(directory)]
        while pending:
            if pending[-1]:
                name = pending[-1].pop()
                directory = _move(directory, name)
                pending.append(_strip_entries(directory))
            else:
                pending.pop()
                if pending:
                    directory = _move(directory, "..")
    finally:
        os.close(directory)


def _strip_entries(directory: int) -> list[str]:
    """Returns the names of the directories in it."""
    directories: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            _strip(entry.name, status, directory)
            if stat.S_ISDIR(status.st_mode):
                directories.append(entry.name)
    return directories


def _move(directory: int, name: str) -> int:
    """Opens an entry of the directory; closes the directory on success."""
    entered = open_directory(name, directory)
    os.close(directory)
    return entered


def _strip(name: str, status: os.stat_result, parent: int | None = None) -> None:
    if status.st_mode & _SET_ID and not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode) & ~_SET_ID, dir_fd=parent)
