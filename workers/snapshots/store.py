"""Content-addressed snapshots of directories: packed in the object store, unpacked in the host's cache."""

from __future__ import annotations

import errno
import re
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.keys import snapshot_key
from workers.filesystem.ownership import Owner
from workers.snapshots.input_missing import InputMissing
from workers.snapshots.packing import pack
from workers.snapshots.tar_format import ContentRejected
from workers.snapshots.tree_cache import TreeCache
from workers.snapshots.unpacking import unpack

STAGING_PREFIX = "staging/"
# A run's objects are read within the hours for which its Job may wait and run, and the minutes that Kubernetes keeps it
# for another worker after that; its name, by which they could be found, is gone with it.
STAGED_SECONDS = 24 * 3600.0
_STAGING_NAME = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


class SnapshotMissing(InputMissing):
    """The object store has no such snapshot, or only a damaged one: the stage that made it has to run again."""

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(digest, f"Snapshot {digest[:12]} {reason}; the stage that made it has to run again.")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`digest` names the content; `size_bytes` is the size of the packed object."""

    digest: str
    size_bytes: int


def staging_key(name: str) -> str:
    """The key of an object that a sandbox elsewhere writes. `name`: letters, digits, `-`, `_` and `/`."""
    if not _STAGING_NAME.fullmatch(name):
        raise ValueError(f"Not a staging name: {name!r}.")
    return f"{STAGING_PREFIX}{name}"


class SnapshotStore:
    """Safe between threads and between the worker processes of a host, which share `cache_directory`.

    `cache_directory` should be on the filesystem of the stages' directories, so that saving is a rename. `owner`: whom
    the unpacked trees must belong to, where that isn't this process's user.
    """

    def __init__(
        self, store: ArtifactStore, cache_directory: Path, *, maximum_bytes: int, owner: Owner | None = None
    ) -> None:
        self._store = store
        self._maximum_bytes = maximum_bytes
        self._cache = TreeCache(cache_directory, maximum_bytes=maximum_bytes, owner=owner)

    def close(self) -> None:
        self._cache.close()

    def temporary(self) -> AbstractContextManager[Path]:
        """An empty directory on the filesystem of the cache, deleted at the end of the block or by a later process."""
        return self._cache.temporary()

    def save(self, tenant_id: str, directory: Path, *, maximum_bytes: int | None = None) -> Snapshot:
        """Packs and uploads the directory's content and takes it over: afterwards `directory` is gone.

        Nobody may write to the directory any more. When this raises, the directory may be there or not; run the
        stage again. Raises StageFailure for content that can't be kept (devices, links that leave the tree, more than
        `maximum_bytes` or the cache holds) and PlatformError.
        """
        with self._making_room(), self._cache.temporary() as temporary:
            tarball, maximum = temporary / "snapshot.tar.zst", self._maximum_bytes
            try:
                packed = pack(directory, tarball, maximum_bytes=min(maximum_bytes or maximum, maximum))
            except ContentRejected as error:
                raise StageFailure(
                    FailureCode.OUTPUT_INVALID,
                    f"{error} Remove it from the repository, or from what the commands write.",
                ) from error
            key = snapshot_key(tenant_id, packed.digest)
            size = tarball.stat().st_size
            if not self._store.exists(key):
                self._store.put_file(key, tarball)
            self._take_over(tenant_id, packed.digest, directory, tarball, packed.tree_bytes)
        self._cache.trim(keep=packed.digest)
        return Snapshot(packed.digest, size)

    def _take_over(self, tenant_id: str, digest: str, directory: Path, tarball: Path, tree_bytes: int) -> None:
        with self._cache.temporary() as temporary, self._cache.filling(tenant_id, digest) as move_in:
            # Emptied under the lock, deleted (slow) after it.
            leftover = temporary / "leftover"
            try:
                if move_in is None:
                    directory.rename(leftover)
                else:
                    move_in(directory, tree_bytes)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Another filesystem: the tarball is at hand, so the tree comes from there.
                if move_in is not None:
                    leftover.mkdir()
                    unpack(tarball, leftover, maximum_bytes=self._maximum_bytes)
                    move_in(leftover, tree_bytes)

    @contextmanager
    def attach(self, tenant_id: str, digest: str) -> Generator[Path]:
        """The snapshot's tree, fetched where it isn't in the cache. Never write to it; it stays for the block.

        Paths in it are untrusted: open nothing through its symbolic links. Raises SnapshotMissing, PlatformError.
        """
        while True:
            with self._cache.pinned(tenant_id, digest) as tree:
                if tree is not None:
                    yield tree
                    return
            with self._making_room():
                self._fetch(tenant_id, digest)

    @contextmanager
    def _making_room(self) -> Generator[None]:
        """When the disk is full, what nobody uses is deleted: this run fails, and the next one finds room."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._cache.trim(keep="", is_disk_full=True)
            raise

    def exists(self, tenant_id: str, digest: str) -> bool:
        """Whether the object store has it. A cached tree doesn't count: another host can't reach it."""
        return self._store.exists(snapshot_key(tenant_id, digest))

    def delete(self, tenant_id: str, digest: str) -> None:
        """Removes it from the object store, and from this host's cache unless somebody uses it. May be repeated."""
        self._store.delete(snapshot_key(tenant_id, digest))
        self._cache.discard(tenant_id, digest)

    def link(self, tenant_id: str, digest: str, seconds: int) -> str:
        """A link to the packed snapshot, valid for `seconds`. Raises SnapshotMissing, PlatformError."""
        key = snapshot_key(tenant_id, digest)
        if not self._store.exists(key):
            raise SnapshotMissing(digest, "is not in the object store")
        return self._store.link(key, seconds)

    def upload_form(self, name: str, maximum_bytes: int, seconds: int) -> tuple[str, Mapping[str, str]]:
        """URL and fields of a form that stores a staging object of at most `maximum_bytes`."""
        return self._store.upload_form(staging_key(name), maximum_bytes, seconds)

    def take_in(self, tenant_id: str, name: str) -> Snapshot:
        """Makes a staging object, which a sandbox elsewhere wrote, the snapshot of its content, and deletes it.

        What is stored is what was checked here: nobody else can write under the name by content. Raises PlatformError
        if the object is missing or malformed.
        """
        with self._making_room(), self._cache.temporary() as temporary:
            tarball, tree = temporary / "snapshot.tar.zst", temporary / "tree"
            tree.mkdir(mode=0o755)
            try:
                self._store.get_file(staging_key(name), tarball)
                packed = unpack(tarball, tree, maximum_bytes=self._maximum_bytes)
            except ObjectNotFound as error:
                raise PlatformError(f"The output of a run is missing in the object store ({name}).") from error
            except ContentRejected as error:
                raise PlatformError(f"The output of a run is malformed ({name}): {error}") from error
            key, size = snapshot_key(tenant_id, packed.digest), tarball.stat().st_size
            if not self._store.exists(key):
                self._store.put_file(key, tarball)
            self._take_over(tenant_id, packed.digest, tree, tarball, packed.tree_bytes)
        self._cache.trim(keep=packed.digest)
        self.discard_staged(name)
        return Snapshot(packed.digest, size)

    def discard_staged(self, name: str) -> None:
        """May be repeated. Raises PlatformError."""
        self._store.delete(staging_key(name))

    def _fetch(self, tenant_id: str, digest: str) -> None:
        key = snapshot_key(tenant_id, digest)
        with self._cache.temporary() as temporary, self._cache.filling(tenant_id, digest) as move_in:
            if move_in is None:
                return
            tarball, tree = temporary / "snapshot.tar.zst", temporary / "tree"
            tree.mkdir(mode=0o755)
            try:
                self._store.get_file(key, tarball)
                unpacked = unpack(tarball, tree, maximum_bytes=self._maximum_bytes)
                if unpacked.digest != digest:
                    raise ContentRejected("Its content has another digest.")
            except ObjectNotFound as error:
                raise SnapshotMissing(digest, "is not in the object store") from error
            except ContentRejected as error:
                # Delete it; otherwise the next save would find the key and skip the upload.
                self._store.delete(key)
                raise SnapshotMissing(digest, f"is damaged ({error})") from error
            move_in(tree, unpacked.tree_bytes)
        self._cache.trim(keep=digest)
