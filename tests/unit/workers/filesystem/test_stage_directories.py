"""The stages' scratch directories: everything a build leaves can be deleted, but not by a worker without the lease."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import LeaseLost
from tests.support.executors import wait_for
from workers.executors.disk_usage import measure
from workers.filesystem.trees import StageDirectories, remove_tree
from workers.stages.clone.checkout import remove_repositories


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is cleared whatever happens: what is too deep for pytest would break every later run."""
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path], check=True)


def make_deep(directory: Path, depth: int) -> None:
    """Deeper than a path can name and than Python can recurse; a build needs one loop for it."""
    directory.mkdir()
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        child = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = child
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


def test_a_tree_of_any_depth_is_deleted(place: Path):
    make_deep(place / "deep", 5000)
    remove_tree(place / "deep")
    assert list(place.iterdir()) == []


def test_a_tree_without_permissions_is_deleted_and_no_link_is_followed(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    shut = tmp_path / "tree" / "shut" / "inner"
    shut.mkdir(parents=True)
    (shut / "file").touch()
    (shut.parent / "link").symlink_to(outside)
    (shut.parent / b"raw-\xff\n".decode(errors="surrogateescape")).touch()
    os.mkfifo(shut.parent / "pipe")
    shut.chmod(0)
    shut.parent.chmod(0)
    shut.parent.parent.chmod(0)
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")  # there is none any more
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


def test_a_worker_that_comes_back_leaves_its_successors_directory_alone(tmp_path: Path):
    directories = StageDirectories(tmp_path)
    with directories.open("depl_1", "build", fence=7) as current:
        (current / "output").touch()
        with pytest.raises(LeaseLost), directories.open("depl_1", "build", fence=3):
            pass
        assert (current / "output").exists()
        with directories.open("depl_1", "build", fence=12) as successor:
            assert successor.is_dir()
            assert not current.exists()


def test_a_finished_stage_leaves_nothing_though_its_files_are_deleted_later(tmp_path: Path):
    directories = StageDirectories(tmp_path)
    for number in range(20):
        with directories.open("depl_1", "build", fence=number) as directory:
            for name in ("a/b/c", "d/e"):
                (directory / name).mkdir(parents=True)
                (directory / name / "file").touch()
        assert not directory.exists()
        assert not directory.parent.exists()
    wait_for(lambda: not any((tmp_path / ".discarded").iterdir()))


def test_files_are_deleted_at_once_where_they_cannot_be_moved(tmp_path: Path):
    (tmp_path / ".discarded").touch()
    with StageDirectories(tmp_path).open("depl_1", "build", fence=1) as directory:
        (directory / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == [".discarded"]


def test_what_a_dead_worker_had_not_deleted_yet_is_swept(tmp_path: Path):
    directories = StageDirectories(tmp_path)
    for name in ("old", "fresh"):
        (tmp_path / ".discarded" / name / "tree").mkdir(parents=True)
    for path in (tmp_path / ".discarded" / "old", tmp_path / ".discarded"):
        os.utime(path, (1, 1))
    directories.sweep(lambda _: False)
    assert [path.name for path in (tmp_path / ".discarded").iterdir()] == ["fresh"]


def test_what_dead_workers_left_is_swept_once_it_is_old(tmp_path: Path):
    directories = StageDirectories(tmp_path)
    for name in ("depl_live", "depl_over", "depl_recent"):
        (tmp_path / name / "build-1").mkdir(parents=True)
    for name in ("depl_live", "depl_over"):
        os.utime(tmp_path / name, (1, 1))
    directories.sweep(lambda deployment_id: deployment_id == "depl_live")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["depl_live", "depl_recent"]


def test_a_tree_that_is_too_deep_hides_nothing_and_breaks_nothing(place: Path):
    make_deep(place / "deep", 3000)
    assert measure([place / "deep"]).size_bytes > 1 << 60
    remove_repositories(place / "deep")
    remove_tree(place / "deep")


def test_a_folder_that_hands_its_group_on_hands_no_bit_to_builds(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    root.chmod(0o2755)
    with StageDirectories(root).open("dep_1", "build", 1) as directory:
        (directory / "made").mkdir()
        assert [path.stat().st_mode & 0o6000 for path in (directory, directory / "made")] == [0, 0]
