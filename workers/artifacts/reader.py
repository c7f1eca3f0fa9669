"""Reads artifacts: a manifest by its digest, and local files of the blobs that it names."""

from __future__ import annotations

import contextlib
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from schemas.artifacts import Manifest
from shared.errors import PlatformError
from shared.storage.base import ArtifactSource, ObjectNotFound
from shared.storage.keys import blob_key, manifest_key
from workers.artifacts.blob_cache import BlobCache
from workers.snapshots.tar_format import ContentRejected, check_path

_GIBIBYTE = 1 << 30
_CONNECTIONS = 8
# A store that didn't answer isn't asked first for so long.
_STORE_REST_SECONDS = 30.0


class ArtifactMissing(PlatformError):
    """The object store no longer has a part of the artifact, or has it damaged; a new deployment makes it again."""


class BlobSource(Protocol):
    """Has files by the digest of their content. Safe from any thread."""

    def fetch(self, tenant_id: str, digest: str, destination: Path) -> bool:
        """Writes the file, which the caller checks; returns whether there is one. Raises OSError of this disk."""
        ...


class ArtifactReader:
    """Safe between threads and processes."""

    def __init__(
        self,
        store: ArtifactSource,
        cache_directory: Path,
        *,
        maximum_cache_bytes: int = 10 * _GIBIBYTE,
        may_repair: bool = True,
        others: BlobSource | None = None,
    ) -> None:
        """`may_repair`: deletes damaged objects, so that they are uploaded again. A router has no right to.

        `others` are asked while the store is away. Where there are any, manifests are kept for them, too.
        """
        self._store = store
        self._may_repair = may_repair
        self._others = others
        self._store_away_until = float("-inf")
        self._blobs = BlobCache(cache_directory, maximum_bytes=maximum_cache_bytes)

    def manifest(self, tenant_id: str, digest: str) -> Manifest:
        """The manifest, its content checked against the digest. Raises ArtifactMissing, PlatformError."""
        data = self._manifest_bytes(tenant_id, digest)
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
            for path in manifest.files:
                check_path(path.encode())
        except (msgspec.MsgspecError, ContentRejected, UnicodeEncodeError) as error:
            raise ArtifactMissing(f"Manifest {digest[:12]} can't be read: {error}") from error
        return manifest

    def discard_damaged(self, tenant_id: str, digest: str) -> None:
        """Deletes the manifest of an artifact that is no longer whole, and its damaged blobs, so that both are uploaded
        again. Raises PlatformError.
        """
        # A router has found out, which may not change the store. Reading everything here finds the same.
        with contextlib.suppress(ArtifactMissing):
            self.blobs(tenant_id, self.manifest(tenant_id, digest))
        self._store.delete(manifest_key(tenant_id, digest))

    def blobs(self, tenant_id: str, manifest: Manifest) -> dict[str, Path]:
        """Digest → local file, for every file of the manifest and every variant; fetches what isn't here.

        Link or copy the files soon: they stay for an hour at least. Raises ArtifactMissing, PlatformError.
        """
        sizes: dict[str, int | None] = {}
        for file in manifest.files.values():
            sizes[file.digest] = file.size
            for variant in file.variants.values():
                sizes.setdefault(variant, None)
        found: dict[str, Path] = {}
        missing: list[str] = []
        for digest, size in sizes.items():
            path = self._local(tenant_id, digest, size)
            if path is None:
                missing.append(digest)
            else:
                found[digest] = path
        if missing:
            self._blobs.trim()
            with ThreadPoolExecutor(min(_CONNECTIONS, len(missing)), "blobs") as threads:
                fetched = threads.map(partial(self._fetch_blob, tenant_id), missing)
                try:
                    found.update(zip(missing, fetched, strict=True))
                except ArtifactMissing:
                    # A manifest in the store is a promise that its blobs are there: the next upload makes both again.
                    if self._may_repair:
                        self._store.delete(manifest_key(tenant_id, manifest.digest))
                    raise
        return found

    def find(self, tenant_id: str, digest: str) -> Path | None:
        """The local file of a blob, or of a manifest that is kept. Raises ValueError for an invalid name."""
        path = self._blobs.path(tenant_id, digest)
        return path if path.is_file() else None

    def _manifest_bytes(self, tenant_id: str, digest: str) -> bytes:
        key = manifest_key(tenant_id, digest)
        if self._others is not None:
            path = self.find(tenant_id, digest)
            # A crash of the machine may have cut it off.
            if path is None or not _has_digest(path, digest):
                path = self._fetch(tenant_id, digest, key, "Manifest")
            return path.read_bytes()
        try:
            data = self._store.get_bytes(key)
        except ObjectNotFound as error:
            raise ArtifactMissing(f"Manifest {digest[:12]} is not in the object store.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactMissing(f"Manifest {digest[:12]} is damaged in the object store.")
        return data

    def _local(self, tenant_id: str, digest: str, size: int | None) -> Path | None:
        return self.find(tenant_id, digest) if size is None else self._blobs.find(tenant_id, digest, size)

    def _fetch_blob(self, tenant_id: str, digest: str) -> Path:
        return self._fetch(tenant_id, digest, blob_key(tenant_id, digest), "Blob")

    def _fetch(self, tenant_id: str, digest: str, key: str, name: str) -> Path:
        temporary = self._blobs.temporary_path(tenant_id, digest)
        try:
            if not self._is_at_others(tenant_id, digest, temporary):
                self._read_store(tenant_id, digest, key, name, temporary)
            return self._blobs.admit(tenant_id, digest, temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _read_store(self, tenant_id: str, digest: str, key: str, name: str, temporary: Path) -> None:
        try:
            self._store.get_file(key, temporary)
        except ObjectNotFound as error:
            raise ArtifactMissing(f"{name} {digest[:12]} is not in the object store.") from error
        except PlatformError:
            self._store_away_until = time.monotonic() + _STORE_REST_SECONDS
            if not self._is_at_others(tenant_id, digest, temporary):
                raise
            return
        self._store_away_until = float("-inf")
        if not _has_digest(temporary, digest):
            # Delete it; otherwise the next upload of this content would find the key and send nothing.
            if self._may_repair:
                self._store.delete(key)
            raise ArtifactMissing(f"{name} {digest[:12]} is damaged in the object store.")

    def _is_at_others(self, tenant_id: str, digest: str, temporary: Path) -> bool:
        """Whether the store was away a moment ago, and others have given the file."""
        if self._others is None or time.monotonic() >= self._store_away_until:
            return False
        return self._others.fetch(tenant_id, digest, temporary) and _has_digest(temporary, digest)


def _has_digest(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest
