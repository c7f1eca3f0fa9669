"""Whom a build's files belong to: what a command may change must be its own, and its user depends on the executor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shared.settings import ExecutorSettings

# The user of the builder image.
_BUILD_USER = 10001


@dataclass(frozen=True, slots=True)
class Owner:
    """Numeric user and group. Only root can give files away; an ordinary worker's builds run as that worker."""

    uid: int
    gid: int

    def give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def give_tree(self, directory: Path) -> None:
        """The directory and all in it, following no link. Nobody may write to it meanwhile."""
        if os.geteuid() != 0:
            return
        for _, directories, files, descriptor in os.fwalk(directory):
            for name in (*directories, *files):
                os.chown(name, self.uid, self.gid, dir_fd=descriptor, follow_symlinks=False)
        self.give(directory)


def container_owner() -> Owner:
    """Whom commands in containers run as: the builder image's user, or this worker's own where that is no root."""
    return Owner(_BUILD_USER, _BUILD_USER) if os.geteuid() == 0 else Owner(os.geteuid(), os.getegid())


def owner_of_trees(settings: ExecutorSettings) -> Owner | None:
    """Whom unpacked trees must belong to; None: to the worker, as a sandbox in its own user namespace wants it."""
    return container_owner() if settings.name == "docker" and os.geteuid() == 0 else None
