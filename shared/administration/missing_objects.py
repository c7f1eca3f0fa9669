"""Compares the object store with the database: what live sites need by name, what can be made again as a number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import LiteralString

import msgspec

from schemas.artifacts import Manifest
from shared.administration.backup import needed_artifacts
from shared.administration.backup_file import NeededArtifact
from shared.db.database import Database
from shared.logs.archive.store import ARCHIVES
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.keys import blob_key, manifest_key, snapshot_key

# Production can be rolled back to these.
_READY: LiteralString = """
SELECT DISTINCT tenant_id, manifest_digest AS digest FROM deployments
WHERE status = 'ready' AND manifest_digest IS NOT NULL AND deleting_at IS NULL AND site_state = 'published'
ORDER BY tenant_id
"""
_SNAPSHOTS: LiteralString = "SELECT DISTINCT tenant_id, digest FROM snapshots ORDER BY tenant_id"


class _Named(msgspec.Struct, frozen=True):
    tenant_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class MissingObject:
    """`hosts`: the labels of the sites that can't be served without it."""

    key: str
    problem: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`missing` are objects of live sites. The numbers are of other objects that aren't in the store: manifests of
    deployments that production could be rolled back to, archives of logs, and snapshots, which builds make again.
    """

    missing: tuple[MissingObject, ...]
    sites: int
    rollback_manifests: int
    log_archives: int
    snapshots: int


@dataclass(slots=True)
class _Missing:
    problem: str
    hosts: list[str] = field(default_factory=list[str])


class ObjectComparison:
    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    def compare(self) -> Comparison:
        """Reads the manifests of live sites; of other objects only whether they exist. Raises PlatformError."""
        with self._database.transaction() as connection:
            artifacts = needed_artifacts(connection)
        missing: dict[str, _Missing] = {}
        # One tenant's names at a time.
        for tenant_id, needed in groupby(artifacts, lambda artifact: artifact.tenant_id):
            blobs = set(self._store.list(f"blobs/{tenant_id}/"))
            for artifact in needed:
                self._compare_artifact(artifact, blobs, missing)
        return Comparison(
            missing=tuple(MissingObject(key, found.problem, tuple(found.hosts)) for key, found in missing.items()),
            sites=sum(len(artifact.hosts) for artifact in artifacts),
            rollback_manifests=self._count(_READY, "manifests"),
            log_archives=self._count_archives(),
            snapshots=self._count(_SNAPSHOTS, "snapshots"),
        )

    def _compare_artifact(self, artifact: NeededArtifact, blobs: set[str], missing: dict[str, _Missing]) -> None:
        def note(key: str, problem: str) -> None:
            missing.setdefault(key, _Missing(problem)).hosts.extend(artifact.hosts)

        key = manifest_key(artifact.tenant_id, artifact.manifest_digest)
        try:
            data = self._store.get_bytes(key)
        except ObjectNotFound:
            note(key, "missing")
            return
        if hashlib.sha256(data).hexdigest() != artifact.manifest_digest:
            note(key, "damaged")
            return
        for digest in _digests(msgspec.json.decode(data, type=Manifest)):
            blob = blob_key(artifact.tenant_id, digest)
            if blob not in blobs:
                note(blob, "missing")

    def _count(self, query: LiteralString, kind: str) -> int:
        count = 0
        rows = self._database.fetch_all(_Named, query)
        for tenant_id, named in groupby(rows, lambda row: row.tenant_id):
            present = set(self._store.list(f"{kind}/{tenant_id}/"))
            make = manifest_key if kind == "manifests" else snapshot_key
            count += sum(make(tenant_id, row.digest) not in present for row in named)
        return count

    def _count_archives(self) -> int:
        keys = self._database.fetch_values(str, "SELECT object_key FROM log_archives")
        present = set(self._store.list(ARCHIVES)) if keys else set[str]()
        return sum(key not in present for key in keys)


def _digests(manifest: Manifest) -> Iterable[str]:
    """Of every file and every variant, once each."""
    found = dict[str, None]()
    for file in manifest.files.values():
        found[file.digest] = None
        found.update(dict.fromkeys(file.variants.values()))
    return found
