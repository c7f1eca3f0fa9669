"""What every ArtifactStore promises: the one on S3, and the one in memory that tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.object_store import S3ArtifactStore
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.running_platform import wait_for

pytestmark = pytest.mark.integration

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    if request.param == "memory":
        return MemoryArtifactStore()
    return S3ArtifactStore(request.getfixturevalue("object_store_settings"))


def test_an_object_comes_back_as_bytes_and_as_a_file(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    store.put_file("a/file", tmp_path / "source")
    store.put_bytes("a/bytes", CONTENT)
    for key in ("a/file", "a/bytes"):
        assert store.get_bytes(key) == CONTENT
        store.get_file(key, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == CONTENT
        assert store.exists(key)
    store.put_bytes("a/bytes", b"other")
    assert store.get_bytes("a/bytes") == b"other"
    assert sorted(store.list("a/")) == ["a/bytes", "a/file"]
    assert list(store.list("a/b")) == ["a/bytes"]
    store.delete("a/file")
    store.delete("a/file")
    assert not store.exists("a/file")
    store.ping()


def test_old_objects_below_a_prefix_are_deleted(store: ArtifactStore) -> None:
    for key in ("old/a", "old/b/c", "older", "other/a"):
        store.put_bytes(key, CONTENT)
    assert store.delete_older("old/", 3600) == []
    assert sorted(store.delete_older("old/", 0)) == ["old/a", "old/b/c"]
    assert sorted(store.list("")) == ["older", "other/a"]
    store.put_bytes("old/a", CONTENT)
    # Old enough after a second, which nobody needs to wait for exactly.
    wait_for(lambda: store.delete_older("old/", 1) == ["old/a"], what="it has become old")
    assert store.delete_older("absent/", 0) == []
    assert sorted(store.list("")) == ["older", "other/a"]


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, 10_240), (0, 10_239), (1, 10_239), (255, 2), (5000, 1000), (10_239, 1), (10_000, 1000), (0, 99_999)],
)
def test_a_range_is_those_bytes_as_far_as_the_object_goes(store: ArtifactStore, offset: int, length: int) -> None:
    store.put_bytes("range", CONTENT)
    assert store.get_range("range", offset, length) == CONTENT[offset : offset + length]


def test_a_range_behind_the_end_is_empty(store: ArtifactStore) -> None:
    store.put_bytes("range", CONTENT)
    store.put_bytes("empty", b"")
    assert store.get_range("range", len(CONTENT), 1) == b""
    assert store.get_range("range", len(CONTENT) + 7, 100) == b""
    assert store.get_range("empty", 0, 5) == b""


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (3, -1)])
def test_a_range_that_cannot_be(store: ArtifactStore, offset: int, length: int) -> None:
    store.put_bytes("range", CONTENT)
    with pytest.raises(ValueError, match="no object has"):
        store.get_range("range", offset, length)


def test_what_is_absent_is_not_found(store: ArtifactStore, tmp_path: Path) -> None:
    for read in (
        lambda: store.get_bytes("absent"),
        lambda: store.get_range("absent", 0, 1),
        lambda: store.get_file("absent", tmp_path / "target"),
    ):
        with pytest.raises(ObjectNotFound):
            read()
    assert not store.exists("absent")
    assert list(store.list("absent/")) == []
    assert not (tmp_path / "target").exists()
