"""The blobs that a worker host keeps: files named by their content's SHA-256, shared by its processes.

A published site is made of hard links to them, so a blob that is served takes no disk here, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from pathlib import Path

from shared.storage.keys import check_names

# Nothing younger is deleted: a job that was given the path may not have linked it yet.
_MINIMUM_AGE_SECONDS = 3600.0


class BlobCache:
    """Safe between threads and processes. Files appear whole, by rename or link, and are never written to again."""

    def __init__(self, cache_directory: Path, *, maximum_bytes: int) -> None:
        self._directory = cache_directory / "blobs"
        self._maximum_bytes = maximum_bytes

    def path(self, tenant_id: str, digest: str) -> Path:
        check_names(tenant_id, digest)
        return self._directory / tenant_id / digest[:2] / digest

    def find(self, tenant_id: str, digest: str, size: int) -> Path | None:
        """The blob's file, marked as used now. One of another size was cut off by a crash of the machine: deleted."""
        path = self.path(tenant_id, digest)
        try:
            if path.lstat().st_size == size:
                os.utime(path.parent)
                return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def temporary_path(self, tenant_id: str, digest: str) -> Path:
        """Where to write a blob before it is checked and `admit`ted."""
        path = self.path(tenant_id, digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.with_name(f".{digest}.{secrets.token_hex(4)}")

    def admit(self, tenant_id: str, digest: str, temporary: Path) -> Path:
        """Moves a complete, checked file in."""
        return temporary.replace(self.path(tenant_id, digest))

    def link(self, tenant_id: str, digest: str, source: Path, size: int) -> None:
        """Takes in a file whose content has this digest and which nobody writes to: by hard link, else by copying."""
        if self.find(tenant_id, digest, size) is not None:
            return
        temporary = self.temporary_path(tenant_id, digest)
        try:
            try:
                mode = source.stat(follow_symlinks=False).st_mode
                # A link would carry the bits that run a program as its owner, who may be root, out to the sites.
                if not mode & stat.S_IRUSR or mode & (stat.S_ISUID | stat.S_ISGID):
                    raise OSError(errno.EPERM, "of a mode that is not published")
                os.link(source, temporary, follow_symlinks=False)
            except OSError:
                # Another filesystem, too many links, or a mode that must not be shared.
                shutil.copyfile(source, temporary, follow_symlinks=False)
            self.admit(tenant_id, digest, temporary)
        finally:
            # Renaming one link of a file over another does nothing and leaves both, says rename(2).
            temporary.unlink(missing_ok=True)

    def trim(self) -> int:
        """Deletes old blobs, by shard and least recently used first, until the bound holds; returns bytes freed."""
        shards: list[tuple[float, Path]] = []
        total = freed = 0
        for shard in self._directory.glob("*/*"):
            shards.append((shard.stat().st_mtime, shard))
            total += _size(shard)
        horizon = time.time() - _MINIMUM_AGE_SECONDS
        for used_at, shard in sorted(shards):
            if total - freed <= self._maximum_bytes or used_at > horizon:
                break
            freed += _size(shard)
            for blob in shard.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if blob.lstat().st_nlink == 1:
                        blob.unlink()
        return freed


def _size(shard: Path) -> int:
    """The bytes that deleting the shard's files would free: those with no other link."""
    total = 0
    with os.scandir(shard) as entries:
        for entry in entries:
            # Another process may trim at the same time.
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                total += status.st_size if status.st_nlink == 1 else 0
    return total
