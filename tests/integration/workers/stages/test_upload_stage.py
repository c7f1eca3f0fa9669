"""The upload stage and the reader of what it made, through a real object store."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.artifacts import Manifest, ManifestFile, ManifestRedirect, ManifestServing
from shared.db.database import Database
from shared.deployments.state import Stage
from shared.errors import Cancelled, FailureCode, StageFailure
from shared.settings import ObjectStoreSettings
from shared.storage.keys import blob_key, manifest_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.stage_context import TENANT, RecordedLog, add_tenant, make_context
from workers.artifacts.blob_cache import BlobCache
from workers.artifacts.output_tree import SITE_LIMITS
from workers.artifacts.reader import ArtifactMissing, ArtifactReader
from workers.pipeline.stage import StageContext, StageResult
from workers.pipeline.table import ArtifactOutput
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.upload.stage import UploadStage

pytestmark = pytest.mark.integration


class Uploader:
    def __init__(self, directory: Path, store: ObjectStoreSettings, database: Database) -> None:
        self.index = SnapshotIndex(database)
        self.directory = directory
        self.store = S3ArtifactStore(store)
        self.snapshots = SnapshotStore(self.store, directory / "cache", maximum_bytes=1 << 30)
        self.blobs = BlobCache(directory / "cache", maximum_bytes=1 << 30)
        self.numbers = itertools.count(1)
        self.log = RecordedLog()

    def context(
        self, fill: Callable[[Path], object], attempt: int = 1, detection: dict[str, Any] | None = None
    ) -> StageContext:
        number = next(self.numbers)
        output = self.directory / f"output-{number}"
        output.mkdir()
        fill(output)
        digest = self.snapshots.save(TENANT, output).digest
        context = make_context(
            self.directory / f"run-{number}",
            inputs={Stage.BUILD: {"output": digest}, **_installed(detection)},
            attempt=attempt,
        )
        assert isinstance(context.log, RecordedLog)
        self.log = context.log
        return context

    def upload(self, fill: Callable[[Path], object], attempt: int = 1, **limits: int) -> str:
        stage = UploadStage(self.snapshots, self.index, self.store, self.blobs, replace(SITE_LIMITS, **limits))
        return stage.run(self.context(fill, attempt)).output.manifest

    def result(self, fill: Callable[[Path], object], **detection: Any) -> StageResult[ArtifactOutput]:
        stage = UploadStage(self.snapshots, self.index, self.store, self.blobs)
        return stage.run(self.context(fill, detection=detection))

    def failure(self, fill: Callable[[Path], object], **limits: int) -> StageFailure:
        with pytest.raises(StageFailure) as caught:
            self.upload(fill, **limits)
        return caught.value


def _installed(detection: dict[str, Any] | None) -> dict[Stage, dict[str, object]]:
    """What an install recorded; nothing without a detection."""
    if detection is None:
        return {}
    fields = {
        "framework": "static", "package_manager": None, "root_directory": ".", "install_directory": ".",
        "install_command": None, "build_command": None, "output_directories": ["."], "lockfile": None,
        "runtime": "none", "node_version": None, "python_version": None, "is_custom_install": False, "reasons": [],
    }  # fmt: skip
    return {Stage.INSTALL: {"source": "a", "dependencies": None, "detection": {**fields, **detection}}}


@pytest.fixture
def uploader(tmp_path: Path, object_store_settings: ObjectStoreSettings, database: Database) -> Iterator[Uploader]:
    add_tenant(database)
    uploader = Uploader(tmp_path, object_store_settings, database)
    yield uploader
    uploader.snapshots.close()


def _site(directory: Path) -> None:
    (directory / "assets").mkdir()
    (directory / "index.html").write_text("<h1>one</h1>")
    (directory / "same.html").write_text("<h1>one</h1>")
    (directory / "assets" / "naïve name.js").write_text("1")
    (directory / "latest").symlink_to("assets")
    (directory / "home.html").symlink_to("latest/../index.html")


def test_files_become_blobs_and_a_manifest(uploader: Uploader, tmp_path: Path) -> None:
    digest = uploader.upload(_site)
    reader = ArtifactReader(uploader.store, tmp_path / "elsewhere")
    manifest = reader.manifest(TENANT, digest)
    assert manifest.digest == digest
    blobs = reader.blobs(TENANT, manifest)
    content = {path: blobs[file.digest].read_text() for path, file in manifest.files.items()}
    page, script = "<h1>one</h1>", "1"
    assert content == {
        "index.html": page, "same.html": page, "home.html": page,
        "assets/naïve name.js": script, "latest/naïve name.js": script,
    }  # fmt: skip
    assert manifest.files["index.html"].content_type == "text/html; charset=utf-8"
    assert manifest.files["index.html"].size == len(page)
    assert len(list(uploader.store.list(f"blobs/{TENANT}/"))) == 2


def test_how_the_site_is_served_is_recorded_and_counts_as_a_part_of_it(uploader: Uploader, tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "index.html").write_text('<script src="/repo/app.js"></script>')
        (directory / "about.html").write_text("about")
        (directory / "app.js").write_text("1")

    reader = ArtifactReader(uploader.store, tmp_path / "elsewhere")
    pages = uploader.result(fill)
    assert reader.manifest(TENANT, pages.output.manifest).serving == ManifestServing()
    assert ["below /repo/" in warning for warning in pages.warnings] == [True]
    again = uploader.result(fill)
    assert again.is_cache_hit
    assert (again.output, again.warnings) == (pages.output, pages.warnings)
    routing = {"redirects": [{"path": "/a", "target": "/b", "status": 301}], "headers": []}
    application = uploader.result(fill, is_application=True, routing=routing)
    serving = reader.manifest(TENANT, application.output.manifest).serving
    assert serving == ManifestServing(
        is_application=True, redirects=[ManifestRedirect(path="/a", target="/b", status=301)]
    )


def test_a_manifest_from_before_keeps_its_digest() -> None:
    file = ManifestFile(digest="a" * 64, size=1, content_type="text/html")
    stored = '{"files":{"a":{"digest":"%s","size":1,"content_type":"text/html","variants":{}}},"version":1}'
    data = (stored % ("a" * 64)).encode()
    assert Manifest(files={"a": file}).encode() == data
    assert msgspec.json.decode(data, type=Manifest).digest == hashlib.sha256(data).hexdigest()


def test_the_second_time_nothing_is_sent(uploader: Uploader) -> None:
    digest = uploader.upload(_site)
    # Without the manifest the output counts as unknown; its blobs are found one by one.
    uploader.store.delete(manifest_key(TENANT, digest))
    assert uploader.upload(_site) == digest
    assert "Uploaded 0 new files" in uploader.log.text


def test_on_the_same_host_blobs_are_links_and_nothing_is_fetched(uploader: Uploader, tmp_path: Path) -> None:
    digest = uploader.upload(_site)
    for key in list(uploader.store.list(f"blobs/{TENANT}/")):
        uploader.store.delete(key)
    reader = ArtifactReader(uploader.store, tmp_path / "cache")
    blobs = reader.blobs(TENANT, reader.manifest(TENANT, digest))
    assert all(path.stat().st_nlink > 1 for path in blobs.values())


def test_deleted_and_damaged_objects_count_as_missing(uploader: Uploader, tmp_path: Path) -> None:
    digest = uploader.upload(_site)
    reader = ArtifactReader(uploader.store, tmp_path / "elsewhere")
    manifest = reader.manifest(TENANT, digest)
    blob = manifest.files["index.html"].digest
    uploader.store.put_bytes(blob_key(TENANT, blob), b"<h1>two</h1>")
    with pytest.raises(ArtifactMissing, match="damaged"):
        reader.blobs(TENANT, manifest)
    with pytest.raises(ArtifactMissing, match="not in the object store"):
        reader.blobs(TENANT, manifest)
    # Another upload of the content restores it.
    uploader.upload(_site)
    assert reader.blobs(TENANT, manifest)[blob].read_text() == "<h1>one</h1>"
    uploader.store.put_bytes(manifest_key(TENANT, digest), b"{}")
    with pytest.raises(ArtifactMissing, match="damaged"):
        reader.manifest(TENANT, digest)
    uploader.store.delete(manifest_key(TENANT, digest))
    with pytest.raises(ArtifactMissing, match="not in the object store"):
        reader.manifest(TENANT, digest)


def _links(**links: str) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        (directory / "index.html").write_text("one")
        for name, target in links.items():
            (directory / name).symlink_to(target)

    return fill


def _raw(name: bytes) -> Callable[[Path], None]:
    return lambda directory: Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_text("x")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (_links(bad="/etc/passwd"), "bad"),
        (_links(bad="absent"), "bad"),
        (_links(a="b", b="a"), "circle"),
        (_links(bad="."), "bad"),
        (_raw(b"raw-\xff.html"), "not UTF-8"),
        (_raw(b"new\nline.html"), "control characters"),
        (_raw(b"back\\slash.html"), "backslash"),
        (lambda directory: os.mknod(directory / "gone", 0o020000, 0), "gone"),
    ],
)
def test_what_cannot_be_published_is_named(uploader: Uploader, fill: Callable[[Path], object], said: str) -> None:
    failure = uploader.failure(fill)
    assert (failure.code, said in failure.message) == (FailureCode.OUTPUT_INVALID, True), failure.message


def test_limits(uploader: Uploader) -> None:
    def fill(directory: Path) -> None:
        for number in range(5):
            (directory / str(number)).write_bytes(b"x" * 2000)

    too_large = FailureCode.OUTPUT_TOO_LARGE
    assert uploader.failure(fill, maximum_output_files=4).code is too_large
    assert uploader.failure(fill, maximum_file_bytes=1999).code is too_large
    assert uploader.failure(fill, maximum_output_bytes=9999).code is too_large
    assert uploader.upload(fill, maximum_output_files=5, maximum_file_bytes=2000, maximum_output_bytes=10_000)
    assert uploader.failure(lambda _directory: None).code is FailureCode.OUTPUT_DIRECTORY_EMPTY


def test_cancelled(uploader: Uploader) -> None:
    context = uploader.context(_site)
    context.cancelled.set()
    stage = UploadStage(uploader.snapshots, uploader.index, uploader.store, uploader.blobs)
    with pytest.raises(Cancelled):
        stage.run(context)
    assert list(uploader.store.list("manifests/")) == []


def test_the_same_output_is_uploaded_once(uploader: Uploader) -> None:
    first = uploader.upload(_site)
    assert uploader.upload(_site) == first
    assert uploader.log.lines[-1].endswith("This output was uploaded before.")
    uploader.store.delete(manifest_key(TENANT, first))
    assert uploader.upload(_site) == first
    assert uploader.store.exists(manifest_key(TENANT, first))


def test_files_of_the_former_artifact_are_not_asked_for_one_by_one(uploader: Uploader) -> None:
    def changed(directory: Path) -> None:
        _site(directory)
        (directory / "new.html").write_text("new")

    first = uploader.upload(_site)
    second = uploader.upload(changed)
    assert "Uploaded 1 new file;" in uploader.log.text
    reader = ArtifactReader(uploader.store, uploader.directory / "elsewhere")
    # Elsewhere nothing is known: every blob of the second is really there.
    assert len(reader.blobs(TENANT, reader.manifest(TENANT, second))) == 3
    assert first != second


def test_a_lost_blob_that_the_former_artifact_names_is_sent_by_the_next_attempt(uploader: Uploader) -> None:
    def changed(directory: Path) -> None:
        _site(directory)
        (directory / "new.html").write_text("new")

    first = uploader.upload(_site)
    reader = ArtifactReader(uploader.store, uploader.directory / "elsewhere")
    lost = reader.manifest(TENANT, first).files["index.html"].digest
    uploader.store.delete(blob_key(TENANT, lost))
    second = uploader.upload(changed)
    with pytest.raises(ArtifactMissing):
        reader.blobs(TENANT, reader.manifest(TENANT, second))
    # What the runner does then: the manifest is gone, and the stage runs again.
    assert uploader.upload(changed, attempt=2) == second
    assert reader.blobs(TENANT, reader.manifest(TENANT, second))[lost].read_text() == "<h1>one</h1>"


def test_no_published_file_runs_as_its_owner(uploader: Uploader) -> None:
    def fill(directory: Path) -> None:
        (directory / "index.html").write_text("one")
        (directory / "index.html").chmod(0o6755)
        (directory / "other.html").write_text("two")

    digest = uploader.upload(fill)
    reader = ArtifactReader(uploader.store, uploader.directory / "cache")
    manifest = reader.manifest(TENANT, digest)
    blobs = reader.blobs(TENANT, manifest)
    modes = {path: blobs[file.digest].stat().st_mode & 0o7000 for path, file in manifest.files.items()}
    assert modes == {"index.html": 0, "other.html": 0}
    assert blobs[manifest.files["index.html"].digest].read_text() == "one"


def test_more_links_than_files_may_be_are_refused(uploader: Uploader) -> None:
    def fill(tree: Path) -> None:
        (tree / "index.html").write_text("x")
        for number in range(20):
            (tree / f"link{number}").symlink_to("index.html")

    assert uploader.failure(fill, maximum_output_files=10).code is FailureCode.OUTPUT_TOO_LARGE


def _nested(tree: Path) -> None:
    for number in range(3):
        (tree / f"{number}/a/b").mkdir(parents=True)
        (tree / f"{number}/a/b/index.html").write_text("x")


def _nested_by_links(tree: Path) -> None:
    (tree / "one/a/b").mkdir(parents=True)
    (tree / "one/a/b/index.html").write_text("x")
    for number in range(2):
        (tree / f"link{number}").symlink_to("one")


@pytest.mark.parametrize("fill", [_nested, _nested_by_links])
def test_more_directories_than_files_may_be_are_refused(uploader: Uploader, fill: Callable[[Path], object]) -> None:
    failure = uploader.failure(fill, maximum_output_files=8)
    assert failure.code is FailureCode.OUTPUT_TOO_LARGE
    assert "more than 8 directories" in failure.message
    assert uploader.upload(fill, maximum_output_files=9)
