"""The reader while the object store is away, and others have the files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from schemas.artifacts import Manifest, ManifestFile
from shared.errors import PlatformError
from shared.storage.keys import blob_key, manifest_key
from tests.support.artifact_stores import MemoryArtifactStore
from workers.artifacts.reader import ArtifactReader

TENANT = "ten_1"
CONTENT = b"content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
MANIFEST = Manifest(files={"index.html": ManifestFile(digest=DIGEST, size=len(CONTENT), content_type="text/html")})


class Store(MemoryArtifactStore):
    is_away = False
    asked = 0

    def get_bytes(self, key: str) -> bytes:
        self.asked += 1
        if self.is_away:
            raise PlatformError("The object store does not answer.")
        return super().get_bytes(key)


class Others:
    """`files`: what other routers answer for a digest."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def fetch(self, tenant_id: str, digest: str, destination: Path) -> bool:
        assert tenant_id == TENANT
        if digest not in self.files:
            return False
        destination.write_bytes(self.files[digest])
        return True


@pytest.fixture
def store() -> Store:
    store = Store()
    store.put_bytes(blob_key(TENANT, DIGEST), CONTENT)
    store.put_bytes(manifest_key(TENANT, MANIFEST.digest), MANIFEST.encode())
    return store


def read(reader: ArtifactReader) -> bytes:
    return reader.blobs(TENANT, reader.manifest(TENANT, MANIFEST.digest))[DIGEST].read_bytes()


def test_files_come_from_others_only_while_the_store_is_away(store: Store, tmp_path: Path) -> None:
    others = Others()
    reader = ArtifactReader(store, tmp_path, others=others)
    store.is_away = True
    with pytest.raises(PlatformError, match="does not answer"):
        read(reader)
    others.files = {DIGEST: CONTENT, MANIFEST.digest: MANIFEST.encode()}
    asked = store.asked
    assert read(reader) == CONTENT
    # It has been found away a moment ago.
    assert store.asked == asked


def test_what_others_answer_is_checked(store: Store, tmp_path: Path) -> None:
    others = Others()
    others.files = {DIGEST: b"another", MANIFEST.digest: MANIFEST.encode()}
    reader = ArtifactReader(store, tmp_path, others=others)
    store.is_away = True
    with pytest.raises(PlatformError, match="does not answer"):
        read(reader)
    store.is_away = False
    assert read(reader) == CONTENT
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith(".")] == []


def test_a_manifest_is_kept_for_others_and_fetched_again_if_it_is_damaged(store: Store, tmp_path: Path) -> None:
    reader = ArtifactReader(store, tmp_path, others=Others())
    assert read(reader) == CONTENT
    asked = store.asked
    assert read(reader) == CONTENT
    assert store.asked == asked
    kept = reader.find(TENANT, MANIFEST.digest)
    assert kept is not None
    kept.write_bytes(MANIFEST.encode()[:10])
    assert read(reader) == CONTENT
    assert store.asked == asked + 1
