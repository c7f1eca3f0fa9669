"""upload: turns the output directory into content-addressed blobs and one immutable manifest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from schemas.artifacts import Manifest, ManifestFile
from shared.deployment_state import Stage
from shared.errors import Cancelled, FailureCode, PlatformError, StageFailure
from shared.repositories.snapshots import SnapshotIndex
from shared.settings import BuildSettings, Settings
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.wording import counted
from workers.archive import open_directory, walk
from workers.blob_cache import BlobCache, blob_key, manifest_key
from workers.content_types import content_type
from workers.snapshots import SnapshotStore
from workers.stage import StageContext, StageResult
from workers.tar_format import ArchiveRejected, shown

_CONNECTIONS = 8
_KIND = "artifact"
# The artifact follows from the output's content alone, whoever built it: one scope a tenant.
_SCOPE = "tenant"
_MEBIBYTE = 1 << 20
_MAXIMUM_PATH = 1024
_MAXIMUM_LINKS = 40
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


class UploadStage:
    """Safe between threads. Sends only blobs that the object store lacks, then the manifest, so a manifest that
    exists is complete.
    """

    def __init__(
        self, snapshots: SnapshotStore, index: SnapshotIndex, store: ArtifactStore, settings: Settings
    ) -> None:
        self._snapshots = snapshots
        self._index = index
        self._store = store
        self._limits = settings.build
        self._blobs = BlobCache(settings.cache_directory, maximum_bytes=settings.build.cache_bytes)

    def run(self, context: StageContext) -> StageResult:
        tenant_id = context.deployment.tenant_id
        output = _output_digest(context.inputs)
        known = self._find(context, output)
        if known is not None:
            context.log.system("This output was uploaded before.")
            return StageResult({"manifest": known}, is_cache_hit=True, facts={"manifest_digest": known})
        with self._snapshots.attach(tenant_id, output) as tree:
            files = scan_output(tree, self._limits)
            total = sum(size for _, size in files.values())
            context.log.system(f"Uploading {counted(len(files), 'file')}, {_shown_size(total)}.")
            manifest, sent = self._upload(context, tree, files)
        digest = manifest.digest
        self._store.put_bytes(manifest_key(tenant_id, digest), manifest.encode())
        self._record(context, output, digest, total)
        context.log.system(f"Uploaded {counted(sent, 'new file')}; stored already: {len(files) - sent}.")
        self._blobs.trim()
        return StageResult(output={"manifest": digest}, facts={"manifest_digest": digest})

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

    def _upload(
        self, context: StageContext, tree: Path, files: Mapping[str, tuple[bytes, int]]
    ) -> tuple[Manifest, int]:
        """The manifest of the files (path → source path in the tree, size), and how many blobs were sent."""
        tenant_id = context.deployment.tenant_id

        stored = self._former_blobs(context)

        def upload_one(source: bytes, size: int) -> tuple[str, bool]:
            if context.cancelled.is_set():
                raise Cancelled
            return self._upload_file(tenant_id, tree / os.fsdecode(source), size, stored)

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


def _output_digest(inputs: Mapping[Stage, Mapping[str, Any]]) -> str:
    output = inputs.get(Stage.BUILD, {}).get("output")
    if not isinstance(output, str):
        raise PlatformError("The build stage's output is not recorded.")
    return output


def scan_output(tree: Path, limits: BuildSettings) -> dict[str, tuple[bytes, int]]:
    """Path on the site → the file of the tree that holds its content (raw, relative) and its size.

    Links inside the tree stand for what they point at. Raises StageFailure naming the path of what can't be a part of
    a site, or the limit that is passed.
    """
    found: dict[bytes, tuple[bytes, int]] = {}
    links: dict[bytes, bytes] = {}
    root = open_directory(tree)
    try:
        for entry, _, _ in walk(root):
            if entry.kind == b"0":
                found[entry.path] = (entry.path, entry.size)
                _check_limits(entry.path, entry.size, len(found), limits)
            elif entry.kind == b"2":
                links[entry.path] = entry.target
            elif entry.kind == b"3":
                raise _invalid(f"{shown(entry.path)} is a device")
    except ArchiveRejected as error:
        raise StageFailure(FailureCode.OUTPUT_INVALID, f"The output can't be published: {error}") from error
    finally:
        os.close(root)
    _expand_links(found, links, limits)
    if not found:
        raise StageFailure(
            FailureCode.OUTPUT_DIRECTORY_EMPTY,
            "The output directory holds no files. Check the build command and the project's outputDirectory.",
        )
    total = sum(size for _, size in found.values())
    if total > limits.maximum_output_bytes:
        raise StageFailure(
            FailureCode.OUTPUT_TOO_LARGE,
            f"The output takes {_shown_size(total)}; at most {_shown_size(limits.maximum_output_bytes)} are allowed.",
        )
    return {_site_path(path): source for path, source in found.items()}


def _check_limits(path: bytes, size: int, count: int, limits: BuildSettings) -> None:
    if count > limits.maximum_output_files:
        raise StageFailure(
            FailureCode.OUTPUT_TOO_LARGE, f"The output has more than {counted(limits.maximum_output_files, 'file')}."
        )
    if size > limits.maximum_file_bytes:
        raise StageFailure(
            FailureCode.OUTPUT_TOO_LARGE,
            f"{shown(path)} takes {_shown_size(size)}; a file may take {_shown_size(limits.maximum_file_bytes)}.",
        )


def _expand_links(found: dict[bytes, tuple[bytes, int]], links: Mapping[bytes, bytes], limits: BuildSettings) -> None:
    """Puts what each link points at under the link's path: first files, then the files of directories."""
    directories: list[tuple[bytes, bytes]] = []
    for path in links:
        target = _follow(path, links)
        if target in found:
            found[path] = found[target]
            _check_limits(path, found[path][1], len(found), limits)
        else:
            directories.append((path, target))
    plain = dict(found)
    for path, target in directories:
        prefix = target + b"/" if target else b""
        below = {path + b"/" + name[len(prefix) :]: source for name, source in plain.items() if name.startswith(prefix)}
        if not below or (path + b"/").startswith(prefix):
            raise _invalid(f"the symbolic link {shown(path)} points at nothing that can be published")
        found.update(below)
        _check_limits(path, 0, len(found), limits)


def _follow(path: bytes, links: Mapping[bytes, bytes]) -> bytes:
    """Where the link leads, by the tree's own entries alone; nothing is opened."""
    rest, resolved, followed = path.split(b"/"), list[bytes](), 0
    while rest:
        part = rest.pop(0)
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not resolved:
                raise _invalid(f"the symbolic link {shown(path)} leaves the output directory")
            resolved.pop()
            continue
        resolved.append(part)
        target = links.get(b"/".join(resolved))
        if target is not None:
            followed += 1
            if target.startswith(b"/") or followed > _MAXIMUM_LINKS:
                raise _invalid(f"the symbolic link {shown(path)} leaves the output directory or leads in a circle")
            resolved.pop()
            rest = target.split(b"/") + rest
    return b"/".join(resolved)


def _site_path(path: bytes) -> str:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise _invalid(f"the name {shown(path)} is not UTF-8") from None
    if _UNFIT.search(text):
        raise _invalid(f"the name {shown(path)} holds control characters or a backslash")
    if len(path) > _MAXIMUM_PATH:
        raise _invalid(f"the path {text[:80]}… is longer than {_MAXIMUM_PATH} bytes")
    return text


def _invalid(problem: str) -> StageFailure:
    return StageFailure(FailureCode.OUTPUT_INVALID, f"The output can't be published: {problem}. Remove or rename it.")


def _shown_size(size: int) -> str:
    return f"{size / _MEBIBYTE:.1f} MiB" if size >= _MEBIBYTE else f"{size / 1024:.1f} KiB"
