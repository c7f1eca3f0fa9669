"""upload: turns the output directory into content-addressed blobs and one immutable manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from schemas.artifacts import Manifest, ManifestFile, ManifestHeaders, ManifestRedirect, ManifestServing
from shared.errors import Cancelled
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.keys import blob_key, manifest_key
from shared.text.wording import counted
from workers.artifacts.blob_cache import BlobCache
from workers.artifacts.content_types import content_type
from workers.artifacts.output_tree import SITE_LIMITS, OutputLimits, shown_size
from workers.frameworks.detection import Detection
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import BUILD, INSTALL, ArtifactOutput
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex, SnapshotRecord
from workers.snapshots.store import SnapshotStore
from workers.stages.upload.site_facts import SiteFacts, facts_of, is_application, warnings_of

_CONNECTIONS = 8
_KIND = "artifact"
# The artifact follows from the output's content and from how it is served, no matter which project built it: one scope
# for each tenant.
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
        installed = context.inputs.find(INSTALL)
        detection = None if installed is None else installed.detection
        key = _key(output, detection)
        known = self._find(context, key)
        if known is not None:
            context.log.system("This output was uploaded before.")
            return _result(
                context, known.digest, msgspec.convert(known.output, SiteFacts), detection, is_cache_hit=True
            )
        with self._snapshots.attach(tenant_id, output) as tree:
            reading = self._reader.scan_output(tree, self._limits, context.cancelled)
            files = reading.files
            total = sum(size for _, size in files.values())
            context.log.system(f"Uploading {counted(len(files), 'file')}, {shown_size(total)}.")
            manifest, sent = self._upload(context, tree, files, _serving(files, detection))
        digest, facts = manifest.digest, facts_of(files, reading.first_page)
        self._store.put_bytes(manifest_key(tenant_id, digest), manifest.encode())
        self._record(context, key, digest, total, facts)
        context.log.system(f"Uploaded {counted(sent, 'new file')}; stored already: {len(files) - sent}.")
        self._blobs.trim()
        return _result(context, digest, facts, detection)

    def _find(self, context: StageContext, key: str) -> SnapshotRecord | None:
        """The record of the same site. A manifest that exists is complete."""
        tenant_id = context.deployment.tenant_id
        if context.deployment.clean:
            return None
        record = self._index.find(tenant_id, [_SCOPE], _KIND, key)
        if record is None:
            return None
        if not self._store.exists(manifest_key(tenant_id, record.digest)):
            self._index.forget(tenant_id, record)
            return None
        self._index.touch(tenant_id, record)
        return record

    def _record(self, context: StageContext, key: str, manifest: str, size_bytes: int, facts: SiteFacts) -> None:
        self._index.record(
            tenant_id=context.deployment.tenant_id,
            scope=_SCOPE,
            kind=_KIND,
            key=key,
            group=context.deployment.project_id,
            digest=manifest,
            size_bytes=size_bytes,
            components={},
            output=msgspec.to_builtins(facts),
        )

    def _upload(
        self, context: StageContext, tree: Path, files: Mapping[str, tuple[str, int]], serving: ManifestServing
    ) -> tuple[Manifest, int]:
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
            },
            serving=serving,
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


def _key(output: str, detection: Detection | None) -> str:
    """Of the output, and of what the repository and the project say about serving it."""
    said = None
    if detection is not None:
        said = [detection.is_application, detection.is_application_named, msgspec.to_builtins(detection.routing)]
    return hashlib.sha256(msgspec.json.encode([output, said], order="deterministic")).hexdigest()


def _serving(files: Mapping[str, object], detection: Detection | None) -> ManifestServing:
    if detection is None:
        return ManifestServing(is_application=is_application(files, decided=None, is_named=False))
    routing = detection.routing
    return ManifestServing(
        is_application=is_application(files, decided=detection.is_application, is_named=detection.is_application_named),
        redirects=[
            ManifestRedirect(path=rule.path, target=rule.target, status=rule.status, is_forced=rule.is_forced)
            for rule in routing.redirects
        ],
        headers=[ManifestHeaders(path=rule.path, headers=rule.headers) for rule in routing.headers],
    )


def _result(
    context: StageContext, manifest: str, facts: SiteFacts, detection: Detection | None, *, is_cache_hit: bool = False
) -> StageResult[ArtifactOutput]:
    warnings = warnings_of(facts, detection.framework if detection is not None else "static")
    for warning in warnings:
        context.log.system(f"Warning: {warning}")
    return StageResult(
        ArtifactOutput(manifest=manifest),
        is_cache_hit=is_cache_hit,
        facts={"manifest_digest": manifest},
        warnings=warnings,
    )
