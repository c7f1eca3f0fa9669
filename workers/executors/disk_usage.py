"""Measures trees of a command that may be running: they change meanwhile, and hide nothing. Standard library only."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workers.filesystem.descent import open_directory


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """`size_bytes` of allocated blocks; `entries` are names: files, directories, links, each hard link of a file."""

    size_bytes: int
    entries: int


# For trees that are too deep or unreadable: they must not hide usage.
_ENDLESS = DiskUsage(sys.maxsize, 0)


def measure(paths: Sequence[Path], most_bytes: int = sys.maxsize, most_entries: int = sys.maxsize) -> DiskUsage:
    """Disk usage under `paths`; stops early once a bound is passed. Blocks of a file with several links count once.

    A tree too deep for its paths to be opened counts as endless, as does a directory that stays unreadable.
    """
    size = count = 0
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[str, tuple[int, int] | None]] = [(os.fspath(path), None) for path in paths]
    while pending:
        parent, expected = pending.pop()
        try:
            with _listed(parent, expected) as entries:
                for entry in entries:
                    count += 1
                    if size > most_bytes or count > most_entries:
                        return DiskUsage(size, count)
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted meanwhile
                    identity = (status.st_dev, status.st_ino)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((f"{parent}/{entry.name}", identity))
                    elif status.st_nlink > 1:
                        if identity in seen:
                            continue
                        seen.add(identity)
                    size += status.st_blocks * 512
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
                return _ENDLESS
    return DiskUsage(size, count)


@contextmanager
def _listed(path: str, identity: tuple[int, int] | None) -> Generator[Iterable[os.DirEntry[str]]]:
    """The entries of the directory; none if a link or another directory has replaced any part of the path.

    A build may move its directories at any time; only directories that were seen inside the tree are measured.
    """
    directory = open_directory(path)
    try:
        status = os.fstat(directory)
        if identity in (None, (status.st_dev, status.st_ino)):
            with os.scandir(directory) as entries:
                yield entries
        else:
            yield ()
    finally:
        os.close(directory)
