"""Measures a commit from git's list of its files before it is checked out, and a directory on the disk.

The list may be practically endless (trees that contain one tree several times, nested), so reading stops at the limits.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from shared.errors import FailureCode, StageFailure
from workers.snapshots.tar_format import MAXIMUM_DEPTH

# Files and directories of everything that one deployment checks out. Linux has 90 000, Chromium 450 000.
MAXIMUM_ENTRIES = 500_000
# On the disk: a checkout, and git's own files.
_MAXIMUM_WATCHED = 2 * MAXIMUM_ENTRIES
# Of all paths together: git's index and this process hold them in memory.
MAXIMUM_LIST_BYTES = 64 << 20
# PATH_MAX of Linux.
_MAXIMUM_PATH = 4096


class TreeSize:
    """Parses the output of `git ls-tree -r -t [-l] -z` in chunks of any size. `file_bytes` needs -l."""

    def __init__(self, maximum_entries: int, former_entries: int = 0) -> None:
        """`former_entries`: counted before for the same maximum."""
        self.entries = 0
        self._former = former_entries
        self.file_bytes = 0
        self._maximum = maximum_entries
        self._list_bytes = 0
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Raises StageFailure REPOSITORY_TOO_LARGE as soon as a limit is exceeded."""
        *records, self._rest = (self._rest + data).split(b"\0")
        self.entries += len(records)
        self._list_bytes += len(data)
        if self._former + self.entries > self._maximum:
            raise too_many_entries(self._maximum)
        if self._list_bytes > MAXIMUM_LIST_BYTES:
            raise StageFailure(
                FailureCode.REPOSITORY_TOO_LARGE,
                f"The paths of the repository's files take more than {MAXIMUM_LIST_BYTES >> 20} MiB. Deploy a "
                "repository that holds the site alone.",
            )
        for record in records:
            information, _, path = record.partition(b"\t")
            size = information.rpartition(b" ")[2]
            if size.isdigit() and b" blob " in information:
                self.file_bytes += int(size)
            self._check_path(path)
        self._check_path(self._rest.partition(b"\t")[2])

    @staticmethod
    def _check_path(path: bytes) -> None:
        if len(path) > _MAXIMUM_PATH or path.count(b"/") > MAXIMUM_DEPTH:
            raise StageFailure(
                FailureCode.REPOSITORY_TOO_LARGE,
                f"The repository nests directories more than {MAXIMUM_DEPTH} deep, or has paths of more than "
                f"{_MAXIMUM_PATH} bytes. Make them shorter, then push again.",
            )


def too_many_entries(maximum: int) -> StageFailure:
    """The failure of a repository with more than `maximum` files and directories."""
    return StageFailure(
        FailureCode.REPOSITORY_TOO_LARGE,
        f"The repository has more than {maximum} files and directories, submodules included. Deploy a repository that "
        "holds the site alone.",
    )


def directory_bytes(directory: Path) -> int:
    """The size of all files in a tree. Links aren't followed; files that disappear meanwhile count nothing.

    Raises StageFailure for more entries than a clone may create, and for a tree too deep to be measured.
    """
    total, entries_left, waiting = 0, _MAXIMUM_WATCHED, [str(directory)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    entries_left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise StageFailure(
                    FailureCode.REPOSITORY_TOO_LARGE, "The repository nests directories too deeply to be kept."
                ) from error
            continue
        if entries_left < 0:
            raise too_many_entries(_MAXIMUM_WATCHED)
    return total
