"""The unpacked trees that a worker host keeps, shared by all of its worker processes and bounded in size.

trees/<tenant>/<digest>/        a tree; appears whole, by rename
trees/<tenant>/<digest>.lock    held shared while the tree is used, exclusively while it comes or goes;
                                holds the tree's size in bytes, its modification time is the last use
trees/boot                      the boot of the machine in which the trees were seen last
temporary/<random>/             what one process is working on, gone when the process is (lock next to it)
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shared.storage.keys import check_names, is_digest
from workers.filesystem.file_lock import locked
from workers.filesystem.ownership import Owner
from workers.filesystem.trees import remove_tree

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Nothing is forced to the disk. What is older than this when the machine stops is there by itself: Linux writes back
# after 30 s, and may take its time.
_SETTLED_SECONDS = 600.0


class TreeCache:
    """Safe between threads and processes. `close` ends it; until then its temporary directory belongs to it."""

    def __init__(
        self,
        directory: Path,
        *,
        maximum_bytes: int,
        owner: Owner | None = None,
        boot: str | None = None,
        settled_seconds: float = _SETTLED_SECONDS,
    ) -> None:
        """`owner`: whom the trees are given to; those of different owners are different caches. `boot`: the name of
        the machine's present boot, else the kernel's."""
        self._owner = owner
        self._trees = directory / ("trees" if owner is None else f"trees-{owner.uid}")
        self._temporary = directory / "temporary"
        self._maximum_bytes = maximum_bytes
        for made in (self._trees, self._temporary):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        name = secrets.token_hex(8)
        self._own = self._temporary / name
        self._alive = ExitStack()
        self._alive.enter_context(locked(self._temporary / f"{name}.lock"))
        self._own.mkdir(mode=0o700)
        self._discard_torn(boot or _BOOT_ID.read_text().strip(), settled_seconds)

    def close(self) -> None:
        remove_tree(self._own)
        self._own.with_name(self._own.name + ".lock").unlink(missing_ok=True)
        self._alive.close()

    def tree(self, tenant_id: str, digest: str) -> Path:
        check_names(tenant_id, digest)
        return self._trees / tenant_id / digest

    @contextmanager
    def temporary(self) -> Generator[Path]:
        """An empty directory on the cache's filesystem, deleted at the end of the block."""
        directory = self._own / secrets.token_hex(8)
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            remove_tree(directory)

    @contextmanager
    def pinned(self, tenant_id: str, digest: str) -> Generator[Path | None]:
        """The tree, which can't be evicted during the block; None when it isn't here."""
        tree = self.tree(tenant_id, digest)
        if not tree.is_dir():
            yield None
            return
        lock = self._lock_path(tree)
        with locked(lock, is_shared=True) as descriptor:
            if not tree.is_dir():
                yield None
                return
            assert descriptor is not None
            os.utime(descriptor)
            yield tree

    @contextmanager
    def filling(self, tenant_id: str, digest: str) -> Generator[Callable[[Path, int], None] | None]:
        """Gives a function that moves a finished directory (and its size in bytes) in; None when the tree is here.

        Only one process at a time fills a digest; the others wait for it.
        """
        tree = self.tree(tenant_id, digest)
        tree.parent.mkdir(mode=0o700, exist_ok=True)
        with locked(self._lock_path(tree)) as descriptor:
            assert descriptor is not None
            held = descriptor
            if tree.is_dir():
                yield None
                return

            def move_in(directory: Path, size_bytes: int) -> None:
                # The size comes first: a tree without one would count as nothing for ever.
                os.ftruncate(held, 0)
                os.pwrite(held, b"%d" % size_bytes, 0)
                # Only a directory that its owner may write to can be moved to another parent.
                directory.chmod(0o755)
                if self._owner is not None:
                    self._owner.give_tree(directory)
                directory.rename(tree)

            yield move_in

    def discard(self, tenant_id: str, digest: str) -> None:
        """Deletes the tree unless somebody uses it."""
        self._evict_one(self.tree(tenant_id, digest))

    def trim(self, *, keep: str, is_disk_full: bool = False) -> int:
        """Deletes trees until the bound holds, least recently used first, none in use and not `keep`, a digest.

        Where the disk is full before the bound is reached, half of what is here goes. Returns the bytes freed.
        """
        found: list[tuple[float, int, Path]] = []
        for lock in self._trees.glob("*/*.lock"):
            tree = lock.with_suffix("")
            try:
                size, used_at = int(lock.read_bytes() or b"0"), lock.stat().st_mtime
            except (FileNotFoundError, ValueError):
                continue
            if tree.is_dir():
                found.append((used_at, size, tree))
        total, freed = sum(size for _, size, _ in found), 0
        bound = min(self._maximum_bytes, total // 2) if is_disk_full else self._maximum_bytes
        for _, size, tree in sorted(found):
            if total - freed <= bound:
                break
            if tree.name != keep and self._evict_one(tree):
                freed += size
        return freed

    def _evict_one(self, tree: Path) -> bool:
        if not tree.is_dir():
            return False
        lock = self._lock_path(tree)
        with self.temporary() as trash:
            with locked(lock, is_blocking=False) as descriptor:
                if descriptor is None:
                    return False
                try:
                    tree.rename(trash / "tree")
                except FileNotFoundError:
                    return False
                lock.unlink(missing_ok=True)
        return True

    def _discard_torn(self, boot: str, settled_seconds: float) -> None:
        """After a boot: a machine that stopped without warning may have left the newest trees with empty files."""
        with locked(self._trees / "boot") as descriptor:
            assert descriptor is not None
            if os.pread(descriptor, 100, 0).decode(errors="replace") == boot:
                return
            # A tree's change time is when it was moved in. When the machine stopped isn't known, but not before that.
            made = {tree: tree.lstat().st_ctime for tree in self._trees.glob("*/*") if is_digest(tree.name)}
            horizon = max(made.values(), default=0.0) - settled_seconds
            for tree, made_at in made.items():
                if made_at >= horizon:
                    self._evict_one(tree)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, boot.encode(), 0)

    def _sweep(self) -> None:
        """Deletes temporary files of dead processes."""
        for lock in self._temporary.glob("*.lock"):
            with locked(lock, is_blocking=False) as descriptor:
                if descriptor is not None:
                    remove_tree(lock.with_suffix(""))
                    lock.unlink(missing_ok=True)

    @staticmethod
    def _lock_path(tree: Path) -> Path:
        return tree.with_name(tree.name + ".lock")
