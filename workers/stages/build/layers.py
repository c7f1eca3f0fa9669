"""Moves directories out of a build's upper layer, and merges them with the layer below.

Nothing may write to the layers meanwhile: the sandbox has ended. No symbolic link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from workers.snapshots.tar_format import OPAQUE, is_of_the_tree

_PUBLIC_DIRECTORY = 0o755


def has_directory(layer: Path, path: str) -> bool:
    """Whether `path`, relative to the layer, is a directory in it that no link leads to."""
    try:
        for part in PurePosixPath(path).parts:
            layer /= part
            if not stat.S_ISDIR(layer.lstat().st_mode):
                return False
    except OSError as error:
        # Missing, not a directory, or in one that can't be searched.
        if is_of_the_tree(error):
            return False
        raise
    return True


def take_directories(layer: Path, paths: Sequence[str], target: Path) -> None:
    """Moves the directories among `paths` to the same place below `target`, on the same filesystem.

    A directory that is opaque, by its own mark or that of a parent, is marked opaque at its new place.
    """
    for path in paths:
        if has_directory(layer, path):
            moved, place = layer / path, target / path
            # Only a directory that its owner may write to can be moved to another parent.
            moved.chmod(stat.S_IRWXU)
            hides = any(
                _is_opaque(directory) for directory in (moved, *moved.parents[: len(PurePosixPath(path).parts)])
            )
            for parent in reversed(PurePosixPath(path).parents[:-1]):
                _make_public(target / parent)
            moved.rename(place)
            if hides:
                os.setxattr(place, OPAQUE, b"y", follow_symlinks=False)


def complete(upper: Path, lower: Path | None) -> None:
    """Makes `upper` the merged view of both: applies its whiteouts and links to files that only `lower` has.

    Sockets, pipes and devices are left out. Files are shared with `lower`, so neither may be written to afterwards.
    """
    pending = [(upper, lower)]
    while pending:
        above, below = pending.pop()
        above.chmod(stat.S_IMODE(above.lstat().st_mode) | stat.S_IRWXU)
        if _is_opaque(above):
            os.removexattr(above, OPAQUE, follow_symlinks=False)
            below = None
        with os.scandir(above) as entries:
            present = {entry.name for entry in entries}
        for entry in _entries(below):
            if entry.name in present:
                continue
            if entry.is_dir(follow_symlinks=False):
                _make_public(above / entry.name)
            else:
                os.link(entry.path, above / entry.name, follow_symlinks=False)
        with os.scandir(above) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below_it = below if below is not None and has_directory(below, entry.name) else None
                    pending.append((Path(entry.path), below_it and below_it / entry.name))
                elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                    Path(entry.path).unlink()


def _make_public(directory: Path) -> None:
    """Creates it if missing. Builds see it, so it has the mode of their own directories."""
    if not directory.exists():
        directory.mkdir()
        directory.chmod(_PUBLIC_DIRECTORY)


def _entries(directory: Path | None) -> list[os.DirEntry[str]]:
    if directory is None:
        return []
    with os.scandir(directory) as entries:
        return list(entries)


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, OPAQUE, follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise
