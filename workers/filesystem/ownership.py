"""Ownership of a build's files: commands need to own files that they change, and their user depends on the executor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """Numeric user and group. Only root can give files away; without root, `give` does nothing."""

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
