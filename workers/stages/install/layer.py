"""Which files an install may leave so that its result fits other commits, too."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from workers.frameworks.node_projects import LOCKFILES
from workers.snapshots.tar_format import MAXIMUM_DEPTH, is_of_the_tree

_DEPENDENCY_DIRECTORIES = frozenset({"node_modules", ".venv"})
# Yarn's Plug'n'Play keeps packages as archives below .yarn, and a map of them next to it.
_YARN_DIRECTORIES = frozenset({"cache", "unplugged"})
_WRITTEN_FILES = frozenset(
    {name for names in LOCKFILES.values() for name in names}
    | {"uv.lock", ".pnp.cjs", ".pnp.loader.mjs", "install-state.gz", "build-state.yml"}
)


def changes_source(upper: Path) -> bool:
    """Whether the install wrote anything but dependencies and a lockfile that was not there.

    A directory that can't be looked into counts as a change. Raises OSError for failures of the platform.
    """
    errors: list[OSError] = []
    # By descriptors, as paths may get longer than the kernel takes.
    for directory, directories, files, descriptor in os.fwalk(upper, onerror=errors.append):
        skipped = _YARN_DIRECTORIES if directory.endswith("/.yarn") else _DEPENDENCY_DIRECTORIES
        directories[:] = [name for name in directories if name not in skipped]
        if directory.count("/") - str(upper).count("/") > MAXIMUM_DEPTH:
            # No snapshot takes it, and saving says so; os.walk would run into Python's own limit first.
            return True
        # A link to a directory is listed with the directories.
        if any(name not in _WRITTEN_FILES for name in files) or any(
            stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode) for name in directories
        ):
            return True
    for error in errors:
        if not is_of_the_tree(error):
            raise error
    return bool(errors)


def has_entry(upper: Path, path: str) -> bool:
    """Whether the layer has something of its own at `path`, or instead of a directory on the way to it."""
    for part in PurePosixPath(path).parts:
        upper /= part
        try:
            mode = upper.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            return True
    return True
