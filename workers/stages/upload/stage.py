"""upload: turns the output directory into content-addressed blobs and one immutable manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from schemas.artifacts import Manifest, ManifestFile
from shared.errors import Cancelled
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.keys import blob_key, manifest_key
from shared.text.wording import counted
from workers.artifacts.blob_cache import BlobCache
from workers.artifacts.content_types import content_type
from workers.artifacts.output_tree import SITE_LIMITS, OutputLimits, shown_size
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import BUILD, ArtifactOutput
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore

_CONNECTIONS = 8
_KIND = "artifact"
# The artifact follows from the output's content alone, no matter which project built it: one scope for each tenant.
_SCOPE = "tenant"


def build(parts: StageParts) -> UploadStage:
    settings = parts.settings
    blobs = BlobCache(settings.directories.cache, maximum_bytes=settings.cache.maximum_bytes)
    return UploadStage(parts.snapshots(), SnapshotIndex(parts.database), parts.store, blobs)


class UploadStage(StageFunction):
    """Safe between threads. Sends only blobs that the object store lacks, then the manifest, so a manifest that
    exists is complete.
    """

    def __init__(
        self,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        store: ArtifactStore,
        blobs: BlobCache,
        limits: OutputLimits = SITE_LIMITS,
    ) -> None:
        self._snapshots = snapshots
        self._index = index
        self._store = store
        self._limits = limits
        self._reader = ContentReader()
        self._blobs = blobs

    def run(self, context: StageContext) -> StageResult[ArtifactOutput]:
        tenant_id = context.deployment.tenant_id
        output = context.inputs[BUILD].output
        known = self._find(context, output)
        if known is not None:
            context.log.system("This output was uploaded before.")
            return StageResult(ArtifactOutput(manifest=known), is_cache_hit=True, facts={"manifest_digest": known})
        with self._snapshots.attach(tenant_id, output) as tree:
            files = self._reader.scan_output(tree, self._limits, context.cancelled)
            total = sum(size for _, size in files.values())
            context.log.system(f"Uploading {counted(len(files), 'file')}, {shown_size(total)}.")
            manifest, sent = self._upload(context, tree, files)
        digest = manifest.digest
        self._store.put_bytes(manifest_key(tenant_id, digest), manifest.encode())
        self._record(context, output, digest, total)
        context.log.system(f"Uploaded {counted(sent, 'new file')}; stored already: {len(files) - sent}.")
        self._blobs.trim()
        return StageResult(ArtifactOutput(manifest=digest), facts={"manifest_digest": digest})

    def _find(self, context: StageContext, output: str) -> str | None:
        """The manifest of the same output. One that exists is complete."""
        tenant_id = context.deployment.tenant_id
        if context.deployment.clean:
            return None
        record = self._index.find(tenant_id, [_SCOPE], _KIND, output)
        if record is None:
            return None
        if not self._store.exists(manifest_key(tenant_id, record.digest)):
            self._index.forget(tenant_id, record)
            return None
        self._index.touch(tenant_id, record)
        return record.digest

    def _record(self, context: StageContext, output: str, manifest: str, size_bytes: int) -> None:
        self._index.record(
            tenant_id=context.deployment.tenant_id,
            scope=_SCOPE,
            kind=_KIND,
            key=output,
            group=context.deployment.project_id,
            digest=manifest,
            size_bytes=size_bytes,
            components={},
            output={},
        )

    def _upload(self, context: StageContext, tree: Path, files: Mapping[str, tuple[str, int]]) -> tuple[Manifest, int]:
        """The manifest of the files (path → source path in the tree, size), and how many blobs were sent."""
        tenant_id = context.deployment.tenant_id

        stored = self._former_blobs(context)

        def upload_one(source: str, size: int) -> tuple[str, bool]:
            if context.cancelled.is_set():
                raise Cancelled
            return self._upload_file(tenant_id, tree / source, size, stored)

        sources = dict(files.values())
        with ThreadPoolExecutor(_CONNECTIONS, "upload") as threads:
            futures = {source: threads.submit(upload_one, source, size) for source, size in sources.items()}
            try:
                results = {source: future.result() for source, future in futures.items()}
            finally:
                # After a failure nothing further is begun; what runs ends by itself.
                threads.shutdown(wait=True, cancel_futures=True)
        manifest = Manifest(
            files={
                path: ManifestFile(digest=results[source][0], size=size, content_type=content_type(path))
                for path, (source, size) in files.items()
            }
        )
        return manifest, sum(was_sent for _, was_sent in results.values())

    def _former_blobs(self, context: StageContext) -> set[str]:
        """Digests of the project's artifact before this one: its manifest says, at once, what the store has."""
        tenant_id, project_id = context.deployment.tenant_id, context.deployment.project_id
        # What runs again may do so because a blob was lost, which the former manifest still names.
        if context.deployment.clean or context.attempt > 1:
            return set()
        former = self._index.latest(tenant_id, [_SCOPE], _KIND, project_id)
        if former is None:
            return set()
        try:
            data = self._store.get_bytes(manifest_key(tenant_id, former.digest))
            return {file.digest for file in msgspec.json.decode(data, type=Manifest).files.values()}
        except (ObjectNotFound, msgspec.DecodeError):
            return set()

    def _upload_file(self, tenant_id: str, path: Path, size: int, stored: set[str]) -> tuple[str, bool]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        key = blob_key(tenant_id, digest)
        was_missing = digest not in stored and not self._store.exists(key)
        if was_missing:
            self._store.put_file(key, path)
        self._blobs.link(tenant_id, digest, path, size)
        return digest, was_missing
