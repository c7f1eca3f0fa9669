"""The trees of one stage's runs: snapshots by digest, and the output of commands in the stage's directory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shared.errors import PlatformError
from workers.executors.attachments import DirectoryTrees
from workers.executors.base import LocalTree, Output, StoredTree, Tree, TreeLink, UploadForm
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

    def link(self, tree: Tree, seconds: int) -> TreeLink:
        """See Trees.link. Raises SnapshotMissing, PlatformError."""
        if isinstance(tree, LocalTree):
            raise PlatformError("A directory of this worker can't be shown to a sandbox elsewhere: store it first.")
        return TreeLink(self._snapshots.link(tree.owner, tree.digest, seconds), tree.digest)

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> UploadForm:
        url, fields = self._snapshots.upload_form(key, maximum_bytes, seconds)
        return UploadForm(url, fields, maximum_bytes)

    def take_in(self, output: Output, key: str) -> Tree:
        """See Trees.take_in. Raises PlatformError."""
        snapshot = self._snapshots.take_in(output.owner, key)
        return StoredTree(output.owner, snapshot.digest, snapshot.size_bytes)

    def discard_staged(self, key: str) -> None:
        self._snapshots.discard_staged(key)

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
