"""Reads artifacts: a manifest by its digest, and local files of the blobs that it names."""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from schemas.artifacts import Manifest
from shared.errors import PlatformError
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.keys import blob_key, manifest_key
from workers.artifacts.blob_cache import BlobCache
from workers.snapshots.tar_format import ContentRejected, check_path

_GIBIBYTE = 1 << 30
_CONNECTIONS = 8


class ArtifactMissing(PlatformError):
    """The object store no longer has a part of the artifact, or has it damaged; a new deployment makes it again."""


class ArtifactReader:
    """Safe between threads and processes."""

    def __init__(
        self,
        store: ArtifactStore,
        cache_directory: Path,
        *,
        maximum_cache_bytes: int = 10 * _GIBIBYTE,
        may_repair: bool = True,
    ) -> None:
        """`may_repair`: deletes damaged objects, so that they are uploaded again. A router has no right to."""
        self._store = store
        self._may_repair = may_repair
        self._blobs = BlobCache(cache_directory, maximum_bytes=maximum_cache_bytes)

    def manifest(self, tenant_id: str, digest: str) -> Manifest:
        """The manifest, its content checked against the digest. Raises ArtifactMissing, PlatformError."""
        try:
            data = self._store.get_bytes(manifest_key(tenant_id, digest))
        except ObjectNotFound as error:
            raise ArtifactMissing(f"Manifest {digest[:12]} is not in the object store.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactMissing(f"Manifest {digest[:12]} is damaged in the object store.")
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
                fetched = threads.map(partial(self._fetch, tenant_id), missing)
                try:
                    found.update(zip(missing, fetched, strict=True))
                except ArtifactMissing:
                    # A manifest in the store is a promise that its blobs are there: the next upload makes both again.
                    if self._may_repair:
                        self._store.delete(manifest_key(tenant_id, manifest.digest))
                    raise
        return found

    def _local(self, tenant_id: str, digest: str, size: int | None) -> Path | None:
        if size is None:
            path = self._blobs.path(tenant_id, digest)
            return path if path.is_file() else None
        return self._blobs.find(tenant_id, digest, size)

    def _fetch(self, tenant_id: str, digest: str) -> Path:
        temporary = self._blobs.temporary_path(tenant_id, digest)
        try:
            self._store.get_file(blob_key(tenant_id, digest), temporary)
            with temporary.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != digest:
                # Delete it; otherwise the next upload of this content would find the key and send nothing.
                if self._may_repair:
                    self._store.delete(blob_key(tenant_id, digest))
                raise ArtifactMissing(f"Blob {digest[:12]} is damaged in the object store.")
            return self._blobs.admit(tenant_id, digest, temporary)
        except ObjectNotFound as error:
            raise ArtifactMissing(f"Blob {digest[:12]} is not in the object store.") from error
        finally:
            temporary.unlink(missing_ok=True)
