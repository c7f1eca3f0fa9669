"""Snapshots through a real object store, with caches that several processes share."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.errors import FailureCode, StageFailure
from shared.settings import ObjectStoreSettings
from shared.storage.keys import snapshot_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.stage_context import TENANT, add_tenant
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotMissing, SnapshotStore
from workers.snapshots.tree_cache import TreeCache

pytestmark = pytest.mark.integration

MakeStore = Callable[..., SnapshotStore]


@pytest.fixture
def objects(object_store_settings: ObjectStoreSettings) -> S3ArtifactStore:
    return S3ArtifactStore(object_store_settings)


@pytest.fixture
def make_store(objects: S3ArtifactStore, tmp_path: Path) -> Iterator[MakeStore]:
    made: list[SnapshotStore] = []

    def make(cache: str = "cache", maximum_bytes: int = 1 << 30) -> SnapshotStore:
        made.append(SnapshotStore(objects, tmp_path / cache, maximum_bytes=maximum_bytes))
        return made[-1]

    yield make
    for store in made:
        store.close()


def _directory(path: Path, content: str, size: int = 0) -> Path:
    path.mkdir(parents=True)
    (path / "content").write_text(content)
    if size:
        (path / "large").write_bytes(os.urandom(size))
    return path


def _cached(tmp_path: Path, cache: str = "cache") -> set[str]:
    return {path.name for path in (tmp_path / cache / "trees").glob("*/*") if path.is_dir()}


def test_saving_moves_and_attaching_copies_nothing(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    directory = _directory(tmp_path / "made", "one")
    inode = (directory / "content").stat().st_ino
    snapshot = store.save(TENANT, directory)
    assert not directory.exists()
    with store.attach(TENANT, snapshot.digest) as tree:
        assert (tree / "content").stat().st_ino == inode
    assert store.save(TENANT, _directory(tmp_path / "again", "one")) == snapshot
    assert store.exists(TENANT, snapshot.digest)


def test_another_host_fetches_it_once(make_store: MakeStore, objects: S3ArtifactStore, tmp_path: Path) -> None:
    snapshot = make_store().save(TENANT, _directory(tmp_path / "made", "one"))
    other = make_store("other")
    with other.attach(TENANT, snapshot.digest) as tree:
        assert (tree / "content").read_text() == "one"
    objects.delete(snapshot_key(TENANT, snapshot.digest))
    with other.attach(TENANT, snapshot.digest) as tree:
        assert (tree / "content").read_text() == "one"
    with pytest.raises(SnapshotMissing), make_store("third").attach(TENANT, snapshot.digest):
        pytest.fail("attached what is not there")


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no tarball", lambda _data: b""])
def test_a_damaged_object_counts_as_missing_and_is_replaced(
    make_store: MakeStore, objects: S3ArtifactStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    snapshot = make_store().save(TENANT, _directory(tmp_path / "made", "one"))
    key = snapshot_key(TENANT, snapshot.digest)
    objects.put_bytes(key, damage(objects.get_bytes(key)))
    other = make_store("other")
    with pytest.raises(SnapshotMissing, match="damaged"), other.attach(TENANT, snapshot.digest):
        pytest.fail("attached what is damaged")
    other.save(TENANT, _directory(tmp_path / "again", "one"))
    with make_store("third").attach(TENANT, snapshot.digest) as tree:
        assert (tree / "content").read_text() == "one"


def test_one_object_under_the_name_of_another_is_refused(
    make_store: MakeStore, objects: S3ArtifactStore, tmp_path: Path
) -> None:
    store = make_store()
    one = store.save(TENANT, _directory(tmp_path / "one", "one"))
    two = store.save(TENANT, _directory(tmp_path / "two", "two"))
    objects.put_bytes(snapshot_key(TENANT, one.digest), objects.get_bytes(snapshot_key(TENANT, two.digest)))
    with pytest.raises(SnapshotMissing, match="another digest"), make_store("other").attach(TENANT, one.digest):
        pytest.fail("attached another snapshot")


def test_the_cache_keeps_its_bound_and_what_is_in_use(make_store: MakeStore, tmp_path: Path) -> None:
    store, second = make_store(maximum_bytes=2_500_000), make_store(maximum_bytes=2_500_000)
    first = store.save(TENANT, _directory(tmp_path / "0", "0", 1_000_000))
    with second.attach(TENANT, first.digest) as pinned:
        saved = [store.save(TENANT, _directory(tmp_path / str(n), str(n), 1_000_000)).digest for n in (1, 2, 3)]
        assert (pinned / "content").read_text() == "0"
        assert _cached(tmp_path) == {first.digest, saved[-1]}
    with store.attach(TENANT, saved[0]) as tree:
        assert (tree / "content").read_text() == "1"
    assert first.digest not in _cached(tmp_path)


def test_many_threads_and_stores_want_one_tree(make_store: MakeStore, tmp_path: Path) -> None:
    snapshot = make_store().save(TENANT, _directory(tmp_path / "made", "one", 500_000))
    stores = [make_store("other") for _ in range(3)]
    seen: list[str] = []

    def attach(store: SnapshotStore) -> None:
        with store.attach(TENANT, snapshot.digest) as tree:
            seen.append((tree / "content").read_text())

    threads = [threading.Thread(target=attach, args=(store,)) for store in stores * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["one"] * 9


_DIES = """
import os, signal, sys
from pathlib import Path
from workers.snapshots.tree_cache import TreeCache
cache = TreeCache(Path(sys.argv[1]), maximum_bytes=1)
with cache.temporary() as directory:
    (directory / "leftover").write_text("x")
    os.chmod(directory, 0o500)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_a_killed_worker_are_swept(make_store: MakeStore, tmp_path: Path) -> None:
    alive = make_store()
    died = subprocess.run([sys.executable, "-c", _DIES, str(tmp_path / "cache")], check=False)
    assert died.returncode == -signal.SIGKILL
    temporary = tmp_path / "cache" / "temporary"
    assert len(list(temporary.glob("*.lock"))) == 2
    make_store()
    # The dead one's is gone, the living ones' are there.
    assert len(list(temporary.glob("*.lock"))) == 2
    assert not list(temporary.rglob("leftover"))
    snapshot = alive.save(TENANT, _directory(tmp_path / "made", "one"))
    assert snapshot.digest in _cached(tmp_path)


def test_trees_that_a_crash_of_the_machine_may_have_torn_are_fetched_again(tmp_path: Path) -> None:
    def opened(boot: str, settled_seconds: float = 0.0) -> TreeCache:
        return TreeCache(tmp_path / "cache", maximum_bytes=2**30, boot=boot, settled_seconds=settled_seconds)

    def has(cache: TreeCache, digest: str) -> bool:
        with cache.pinned(TENANT, digest) as tree:
            return tree is not None

    older, newer = "1" * 64, "2" * 64
    with closing(opened("monday")) as cache:
        for digest in (older, newer):
            with cache.filling(TENANT, digest) as move_in:
                assert move_in is not None
                move_in(_directory(tmp_path / digest, digest), 1)
            moved_in, clock = cache.tree(TENANT, digest).stat().st_ctime, tmp_path / "clock"
            clock.touch()
            # Times of files go by the kernel's ticks; the next tree's is to be another.
            while clock.stat().st_ctime <= moved_in:
                clock.write_text("tick")
    with closing(opened("monday")) as cache:
        assert (has(cache, older), has(cache, newer)) == (True, True)
    with closing(opened("tuesday")) as cache:
        assert (has(cache, older), has(cache, newer)) == (True, False)
    with closing(opened("wednesday", settled_seconds=1e9)) as cache:
        assert not has(cache, older)


def test_a_tree_that_cannot_be_kept_is_the_users_failure(make_store: MakeStore, tmp_path: Path) -> None:
    directory = _directory(tmp_path / "made", "one")
    os.mkfifo(directory / "pipe")
    with pytest.raises(StageFailure) as caught:
        make_store().save(TENANT, directory)
    assert caught.value.code is FailureCode.OUTPUT_INVALID
    assert "pipe" in caught.value.message


@pytest.mark.parametrize(("tenant", "digest"), [("../x", "a" * 64), (TENANT, "../" + "a" * 61), (TENANT, "A" * 64)])
def test_names_are_never_paths(make_store: MakeStore, tenant: str, digest: str) -> None:
    with pytest.raises(ValueError, match="Not a tenant"), make_store().attach(tenant, digest):
        pytest.fail("attached a path")


def test_the_index_finds_by_scope_and_explains_by_group(database: Database) -> None:
    add_tenant(database)
    add_tenant(database, "ten_2")
    index = SnapshotIndex(database)

    def record(scope: str, key: str, digest: str, tenant_id: str = TENANT) -> None:
        index.record(
            tenant_id=tenant_id, scope=scope, kind="install", key=key, group="proj_1", digest=digest, size_bytes=1,
            components={"lockfile": key}, output={"digest": digest},
        )  # fmt: skip

    record("production", "k1", "d1")
    record("preview", "k1", "d2")
    record("production", "k2", "d3")
    record("production", "k3", "d4", "ten_2")
    scopes = ["preview", "production"]
    found = index.find(TENANT, scopes, "install", "k1")
    assert found is not None
    assert (found.digest, found.scope, found.components) == ("d2", "preview", {"lockfile": "k1"})
    assert index.find(TENANT, scopes, "build", "k1") is None
    assert index.find(TENANT, scopes, "install", "k3") is None
    latest = index.latest(TENANT, scopes, "install", "proj_1")
    assert latest is not None
    assert latest.digest == "d3"
    # A use is noted once a minute.
    index.touch(TENANT, found)
    untouched = index.latest(TENANT, scopes, "install", "proj_1")
    assert untouched is not None
    assert untouched.digest == "d3"
    with database.transaction() as connection:
        connection.execute("UPDATE snapshots SET last_used_at = last_used_at - interval '2 minutes'")
    index.touch(TENANT, found)
    touched = index.latest(TENANT, scopes, "install", "proj_1")
    assert touched is not None
    assert touched.digest == "d2"
    record("preview", "k1", "d5")
    index.forget(TENANT, found)
    renewed = index.find(TENANT, scopes, "install", "k1")
    assert renewed is not None
    assert renewed.digest == "d5"
    index.forget(TENANT, renewed)
    fallback = index.find(TENANT, scopes, "install", "k1")
    assert fallback is not None
    assert fallback.digest == "d1"


class FullDisk(S3ArtifactStore):
    """Whatever is fetched finds the disk full."""

    def get_file(self, key: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_makes_room_for_the_next_try(
    make_store: MakeStore, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    store = make_store()
    digests = [store.save(TENANT, _directory(tmp_path / f"made-{n}", str(n), 100_000)).digest for n in range(4)]
    elsewhere = make_store("elsewhere").save(TENANT, _directory(tmp_path / "other", "other")).digest
    full = SnapshotStore(FullDisk(object_store_settings), tmp_path / "cache", maximum_bytes=1 << 30)
    with store.attach(TENANT, digests[0]) as used:
        with pytest.raises(OSError, match="No space left"), full.attach(TENANT, elsewhere):
            pass
        # What is used stays, as does what was used last.
        assert (used / "content").read_text() == "0"
        assert _cached(tmp_path) == {digests[0], digests[3]}
    full.close()
    with store.attach(TENANT, elsewhere) as tree:
        assert (tree / "content").read_text() == "other"
