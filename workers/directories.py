"""Scratch directories of stages: one a run, gone afterwards, whatever the build put into them."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StageDirectories:
    """`root` lies on the filesystem of the snapshot cache, so that trees move between them by rename."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def open(self, deployment_id: str, stage: str, fence: int) -> Generator[Path]:
        """An empty directory; what dead runs of the same stage left is deleted first."""
        parent = self._root / deployment_id
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{stage}-*"):
            remove_tree(leftover)
        directory = parent / f"{stage}-{fence}"
        directory.mkdir()
        try:
            yield directory
        finally:
            remove_tree(directory)
            try:
                parent.rmdir()
            except OSError:
                # Another stage's directory is in it; its own end removes the parent.
                return

    def sweep(self, is_live: Callable[[str], bool]) -> None:
        """Deletes the directories of deployments that have finished."""
        if not self._root.is_dir():
            return
        for parent in self._root.iterdir():
            if not is_live(parent.name):
                remove_tree(parent)


def remove_tree(path: Path) -> None:
    """Deletes a tree even where a build (or overlayfs) took its directories' permissions away."""

    def make_accessible(function: Callable[..., Any], name: str, _error: object) -> None:
        parent = Path(name).parent
        for directory in (parent, Path(name)):
            if directory.is_dir() and not directory.is_symlink():
                directory.chmod(stat.S_IRWXU)
        if function in (os.rmdir, os.unlink):
            function(name)
        else:
            shutil.rmtree(name, ignore_errors=True)

    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, onerror=make_accessible)
