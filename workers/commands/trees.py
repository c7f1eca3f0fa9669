"""The trees of one stage's runs: snapshots by digest, and the output of commands in the stage's directory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from workers.executors.attachments import DirectoryTrees
from workers.executors.base import LocalTree, StoredTree, Tree
from workers.snapshots.store import Snapshot, SnapshotStore


class StageTrees(DirectoryTrees):
    """Implements Trees. `directory` is the stage's, on the filesystem of the snapshots' cache."""

    def __init__(self, snapshots: SnapshotStore, directory: Path) -> None:
        super().__init__(directory)
        self._snapshots = snapshots
        self._pins: ExitStack | None = None

    @contextmanager
    def attach(self, tree: StoredTree) -> Generator[Path]:
        """See SnapshotStore.attach."""
        attached = self._snapshots.attach(tree.owner, tree.digest)
        if self._pins is not None:
            yield self._pins.enter_context(attached)
            return
        with attached as directory:
            yield directory

    @contextmanager
    def pinning(self) -> Generator[None]:
        """Trees that are attached during the block stay pinned until its end, so that its runs find the same ones.

        Between two runs another worker of the host could otherwise evict them.
        """
        with ExitStack() as pins:
            self._pins = pins
            try:
                yield
            finally:
                self._pins = None

    @contextmanager
    def opened(self, tree: Tree) -> Generator[Path]:
        """The tree's directory on this worker, for reading. Raises SnapshotMissing, PlatformError."""
        if isinstance(tree, LocalTree):
            yield tree.path
            return
        with self.attach(tree) as directory:
            yield directory

    def save(self, owner: str, tree: Tree) -> Snapshot:
        """The snapshot of a run's output; a local tree is moved into the cache. Raises as SnapshotStore.save."""
        if isinstance(tree, LocalTree):
            return self._snapshots.save(owner, tree.path)
        return Snapshot(tree.digest, tree.size_bytes or 0)
