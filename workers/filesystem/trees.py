"""Scratch directories of stages: one for each run, deleted afterwards whatever the build put into them."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import stat
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from shared.background import BackgroundThread
from shared.errors import LeaseLost
from workers.filesystem.descent import OPEN_DIRECTORY

_log = logging.getLogger(__name__)

# A worker may still be deleting what its finished deployment used.
_SWEPT_AFTER_SECONDS = 3600.0
_DISCARDED = ".discarded"
# Directories that wait to be deleted; beyond that the caller deletes, so that the disk doesn't fill up.
_WAITING = 2


class StageDirectories:
    """`root` lies on the filesystem of the snapshot cache, so that trees move between them by rename."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._discarded: queue.Queue[Path] = queue.Queue(_WAITING)
        self._deleter = BackgroundThread("directories", self._delete_discarded)

    @contextmanager
    def open(self, deployment_id: str, stage: str, fence: int) -> Generator[Path]:
        """An empty directory; the remains of dead runs of the same stage are deleted first.

        Raises LeaseLost if a later run is in progress: this one was suspended for a long time.
        """
        parent = self._root / deployment_id
        parent.mkdir(parents=True, exist_ok=True)
        leftovers = list(parent.glob(f"{stage}-*"))
        if any(int(leftover.name.rpartition("-")[2]) > fence for leftover in leftovers):
            raise LeaseLost
        for leftover in leftovers:
            _try_to_remove(leftover)
        directory = parent / f"{stage}-{fence}"
        directory.mkdir()
        # Without the setgid bit of a folder that hands its group on: tools that copy a directory with its mode would
        # set the bit again, which sandboxes refuse.
        directory.chmod(stat.S_IRWXU)
        try:
            yield directory
        finally:
            self._discard(directory)
            # Another stage's directory may be in it; its own end removes the parent.
            with contextlib.suppress(OSError):
                parent.rmdir()

    def discard(self, deployment_id: str, stage: str, fence: int) -> None:
        """Deletes the remains of dead runs of the stage, but not of later runs, for a run that has nothing to do."""
        parent = self._root / deployment_id
        for leftover in parent.glob(f"{stage}-*"):
            if int(leftover.name.rpartition("-")[2]) <= fence:
                try:
                    self._discard(leftover)
                except OSError as error:
                    # Nothing depends on it; the sweep tries again.
                    _log.warning("%s can't be deleted yet: %s.", leftover, error)
        with contextlib.suppress(OSError):
            parent.rmdir()

    def _discard(self, directory: Path) -> None:
        """Deletes it later, in a thread: tens of thousands of files would hold up the deployment's next stage."""
        trash = self._root / _DISCARDED / uuid.uuid4().hex
        try:
            trash.parent.mkdir(exist_ok=True)
            # Its age is counted from here.
            os.utime(directory)
            directory.rename(trash)
        except FileNotFoundError:
            return  # a later run of the stage has deleted it
        except OSError:
            # A full disk has no room for another name.
            _try_to_remove(directory)
            return
        self._deleter.start()
        try:
            self._discarded.put_nowait(trash)
        except queue.Full:
            _try_to_remove(trash)

    def _delete_discarded(self, _stopping: threading.Event) -> None:
        """Deletes what is queued, as long as the process lives."""
        while True:
            _try_to_remove(self._discarded.get())

    def sweep(self, is_live: Callable[[str], bool]) -> None:
        """Deletes the remains of dead workers for finished deployments."""
        if not self._root.is_dir():
            return
        horizon = time.time() - _SWEPT_AFTER_SECONDS
        discarded = self._root / _DISCARDED
        for parent in self._root.iterdir():
            if parent != discarded and parent.lstat().st_mtime < horizon and not is_live(parent.name):
                _try_to_remove(parent)
        for trash in discarded.iterdir() if discarded.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if trash.lstat().st_mtime < horizon:
                    _try_to_remove(trash)


def _try_to_remove(path: Path) -> None:
    """A failed deletion fails no stage and blocks no other directory: the sweep tries again."""
    try:
        remove_tree(path)
    except OSError as error:
        _log.warning("%s can't be deleted yet: %s.", path, error)


def remove_tree(path: Path) -> None:
    """Deletes a tree of any depth, even where a build (or overlayfs) took its directories' permissions away.

    No link is followed. No error if it doesn't exist, or if it is deleted concurrently.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        path.chmod(stat.S_IRWXU)
        top = os.open(path, OPEN_DIRECTORY)
        try:
            # Directories below are moved up here before they are emptied: nothing recurses and no path gets long.
            pending = _remove_files(top, top)
            while pending:
                name = pending.pop()
                with contextlib.suppress(FileNotFoundError):
                    directory = os.open(name, OPEN_DIRECTORY, dir_fd=top)
                    try:
                        pending += _remove_files(directory, top)
                    finally:
                        os.close(directory)
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        path.rmdir()


def _remove_files(directory: int, top: int) -> list[str]:
    """Deletes the files of a directory and moves its directories to `top`; returns their names there."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    moved: list[str] = []
    for name, is_directory in found:
        with contextlib.suppress(FileNotFoundError):
            if not is_directory:
                os.unlink(name, dir_fd=directory)
                continue
            # Only a directory that its owner may write to can be moved to another parent.
            os.chmod(name, stat.S_IRWXU, dir_fd=directory)
            fresh = uuid.uuid4().hex
            os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(fresh)
    return moved
