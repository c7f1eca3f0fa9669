"""The contract of every publisher. A new one gets its row in KINDS."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.artifacts import Manifest, ManifestFile
from shared.backends import PUBLISHERS
from shared.errors import PlatformError
from tests.support.blobs import LocalBlobs
from workers.publishers.base import Publisher
from workers.publishers.site_directory import SiteDirectoryPublisher


def make_site(directory: Path, files: dict[str, bytes]) -> tuple[Manifest, LocalBlobs]:
    directory.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    entries: dict[str, ManifestFile] = {}
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        paths[digest] = directory / digest
        paths[digest].write_bytes(content)
        entries[name] = ManifestFile(digest=digest, size=len(content), content_type="text/html")
    return Manifest(files=entries), LocalBlobs(paths)


@dataclass(frozen=True)
class PublisherKind:
    """How to open a publisher below a folder, and what the contract can't ask it: where its files are.

    `served`: a host's files. `stored`: the folder with one entry for each deployment.
    """

    open: Callable[[Path], Publisher]
    served: Callable[[Path, str], Path]
    stored: Callable[[Path], Path]


KINDS = {
    "site_directory": PublisherKind(
        # Nothing listens on port 9 of loopback: what needs the router must fail and say so.
        lambda folder: SiteDirectoryPublisher(folder, router_url="http://127.0.0.1:9", domain="localhost"),
        lambda folder, host: folder / host / "current" / "files",
        lambda folder: folder / ".deployments",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> PublisherKind:
    return KINDS[request.param]


@pytest.fixture
def publisher(kind: PublisherKind, tmp_path: Path) -> Publisher:
    return kind.open(tmp_path / "sites")


def test_every_publisher_is_tried() -> None:
    assert set(KINDS) == set(PUBLISHERS)


def test_publish_shows_nothing_until_activated(kind: PublisherKind, publisher: Publisher, tmp_path: Path):
    manifest, blobs = make_site(tmp_path / "blobs", {"index.html": b"one", "a/b.html": b"two"})
    publisher.publish("depl_1", manifest, blobs, is_preview=False)
    assert publisher.is_published("depl_1")
    assert publisher.current("demo") is None
    assert publisher.activate("demo", "depl_1") is None
    assert publisher.current("demo") == "depl_1"
    site = kind.served(tmp_path / "sites", "demo")
    assert (site / "a" / "b.html").read_bytes() == b"two"


def test_publish_twice_changes_nothing_and_leaves_nothing(kind: PublisherKind, publisher: Publisher, tmp_path: Path):
    manifest, blobs = make_site(tmp_path / "blobs", {"index.html": b"one"})
    for _ in range(2):
        publisher.publish("depl_1", manifest, blobs, is_preview=False)
    assert [path.name for path in kind.stored(tmp_path / "sites").iterdir()] == ["depl_1"]
    assert blobs.asked == 1


def test_activate_returns_the_former_and_hosts_lists_all(publisher: Publisher, tmp_path: Path):
    manifest, blobs = make_site(tmp_path / "blobs", {"index.html": b"one"})
    for deployment_id in ("depl_1", "depl_2"):
        publisher.publish(deployment_id, manifest, blobs, is_preview=False)
    publisher.activate("demo", "depl_1")
    assert publisher.activate("demo", "depl_2") == "depl_1"
    assert publisher.sites() == {"demo": "depl_2"}


def test_activating_what_is_not_published_is_refused(publisher: Publisher):
    with pytest.raises(PlatformError, match="not published"):
        publisher.activate("demo", "depl_1")
    assert publisher.current("demo") is None


def test_removal_is_idempotent_and_complete(publisher: Publisher, tmp_path: Path):
    manifest, blobs = make_site(tmp_path / "blobs", {"index.html": b"one"})
    publisher.publish("depl_1", manifest, blobs, is_preview=True)
    publisher.activate("demo", "depl_1")
    for _ in range(2):
        publisher.deactivate("demo")
        publisher.remove_deployment("depl_1")
    assert publisher.sites() == {}
    assert not publisher.is_published("depl_1")


@pytest.mark.parametrize("label", ["..", ".deployments", "a/b", "", "A", "a" * 64, "-a", "a\n"])
def test_an_invalid_host_label_never_becomes_a_path(publisher: Publisher, label: str):
    with pytest.raises(ValueError, match="not a host label"):
        publisher.activate(label, "depl_1") if publisher.is_published("depl_1") else publisher.deactivate(label)


def test_verify_says_when_the_router_does_not_answer(tmp_path: Path):
    publisher = SiteDirectoryPublisher(
        tmp_path / "sites", router_url="http://127.0.0.1:9", domain="localhost", verify_seconds=0.2
    )
    with pytest.raises(PlatformError, match="doesn't answer"):
        publisher.verify("demo", "depl_1")
