from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.artifacts import Manifest, ManifestFile
from workers.router.site_directory import SiteDirectory

MANIFEST = Manifest(files={"index.html": ManifestFile(digest="a" * 64, size=3, content_type="text/html")})


@pytest.fixture
def directory(tmp_path: Path) -> SiteDirectory:
    return SiteDirectory(tmp_path / "sites")


@pytest.fixture
def blob(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "blob"
    path.write_bytes(b"one")
    return {"a" * 64: path}


def test_a_failed_placement_leaves_nothing(directory: SiteDirectory, tmp_path: Path):
    with pytest.raises(OSError, match="nowhere"):
        directory.place("depl_1", MANIFEST, {"a" * 64: tmp_path / "nowhere"}, is_preview=False)
    assert os.listdir(tmp_path / "sites" / ".deployments") == []


def test_the_remains_of_a_killed_process_are_swept(directory: SiteDirectory, blob: dict[str, Path], tmp_path: Path):
    directory.place("depl_1", MANIFEST, blob, is_preview=False)
    for name in ("depl_2.old.partial", "0123.trash"):
        (tmp_path / "sites" / ".deployments" / name).mkdir()
    with directory.trial("depl_1") as host:
        # A process that is killed here leaves the trial's host.
        assert directory.current(host) == "depl_1"
        assert directory.routes() == {}
        directory.sweep()
        assert directory.current(host) is None
    assert directory.deployments() == ["depl_1"]
    assert os.listdir(tmp_path / "sites" / ".deployments") == ["depl_1"]


def test_routes_are_replaced_and_removed(directory: SiteDirectory):
    assert directory.route("demo", "depl_1") is None
    assert directory.route("demo", "depl_2") == "depl_1"
    assert directory.route("demo", "depl_2") == "depl_2"
    assert directory.routes() == {"demo": "depl_2"}
    for _ in range(2):
        directory.unroute("demo")
    assert (directory.routes(), directory.current("demo")) == ({}, None)


def test_deletion_may_be_repeated(directory: SiteDirectory, blob: dict[str, Path]):
    directory.place("depl_1", MANIFEST, blob, is_preview=True)
    assert (directory.has("depl_1"), directory.size("depl_1")) == (True, 3)
    for _ in range(2):
        directory.delete("depl_1")
    assert (directory.has("depl_1"), directory.size("depl_1"), directory.placed_at("depl_1")) == (False, 0, 0)


def test_a_followed_link_tells_when_its_host_was_asked_for(
    directory: SiteDirectory, blob: dict[str, Path], tmp_path: Path
):
    directory.place("depl_1", MANIFEST, blob, is_preview=False)
    directory.route("demo", "depl_1")
    directory.route("idle", "depl_2")
    directory.take_last_uses()
    if not _keeps_access_times(tmp_path):
        pytest.skip("the filesystem keeps no access times")
    assert directory.take_last_uses() == {}
    (tmp_path / "sites" / "demo" / "current" / "files" / "index.html").read_bytes()
    assert directory.take_last_uses().keys() == {"depl_1"}
    assert directory.take_last_uses() == {}


def _keeps_access_times(folder: Path) -> bool:
    link = folder / "link"
    link.symlink_to("sites")
    os.utime(link, (0, link.lstat().st_mtime), follow_symlinks=False)
    os.listdir(link)
    return link.lstat().st_atime > 0


@pytest.mark.parametrize("host", ["..", ".deployments", "a/b", "", "A", "a" * 64, "-a", "a\n"])
def test_a_host_that_is_no_label_never_becomes_a_path(directory: SiteDirectory, host: str):
    for act in (directory.unroute, directory.current, lambda name: directory.route(name, "depl_1")):
        with pytest.raises(ValueError, match="not a host label"):
            act(host)


@pytest.mark.parametrize("deployment_id", ["..", "depl_1/..", "", "depl_1.x.partial", "depl_1\n"])
def test_an_id_of_no_deployment_never_becomes_a_path(directory: SiteDirectory, deployment_id: str):
    for act in (directory.delete, directory.has, lambda name: directory.route("demo", name)):
        with pytest.raises(ValueError, match="not a deployment's id"):
            act(deployment_id)
