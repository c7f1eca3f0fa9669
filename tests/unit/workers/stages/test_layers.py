"""What a build changed in a directory, put together with what an earlier build left there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.ordinary_user import as_ordinary_user
from workers.snapshots.tar_format import OPAQUE
from workers.stages.build.layers import complete, has_directory, take_directories


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root.mkdir(exist_ok=True)
    return root


def files_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def mark_opaque(directory: Path) -> None:
    try:
        os.setxattr(directory, OPAQUE, b"y")
    except OSError:
        pytest.skip("the filesystem of temporary directories has no user attributes")


def test_changes_are_laid_over_what_was_there(tmp_path: Path) -> None:
    lower = write(tmp_path / "lower", {"same/a": "1", "same/b": "1", "gone/x": "1", "kept/deep/y": "1", "turned": "1"})
    (lower / "link").symlink_to("same/a")
    upper = write(tmp_path / "upper", {"same/b": "2", "new/c": "2", "turned/inside": "2"})
    complete(upper, lower)
    assert files_of(upper) == {
        "gone/x": "1", "kept/deep/y": "1", "link": "same/a", "new/c": "2", "same/a": "1", "same/b": "2",
        "turned/inside": "2",
    }  # fmt: skip
    assert files_of(lower)["same/b"] == "1"


def test_a_deleted_file_and_a_replaced_directory_stay_away(tmp_path: Path) -> None:
    lower = write(tmp_path / "lower", {"a/deleted": "1", "a/kept": "1", "b/old": "1", "b/c/old": "1"})
    upper = write(tmp_path / "upper", {"b/new": "2", "b/c/new": "2"})
    (upper / "a").mkdir()
    os.mknod(upper / "a/deleted", stat.S_IFCHR, 0)
    mark_opaque(upper / "b")
    complete(upper, lower)
    assert files_of(upper) == {"a/kept": "1", "b/c/new": "2", "b/new": "2"}
    assert not os.listxattr(upper / "b")


def test_what_no_snapshot_takes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upper = write(tmp_path / "upper", {"a": "1"})
    os.mkfifo(upper / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path may have 107 bytes at most.
        monkeypatch.chdir(upper)
        server.bind("socket")
    complete(upper, None)
    assert files_of(upper) == {"a": "1"}


def test_directories_are_moved_with_what_hides_the_lower_ones(tmp_path: Path) -> None:
    upper = write(tmp_path / "upper", {"app/.next/cache/a": "1", "app/other": "1", "node_modules/.cache/b": "1"})
    mark_opaque(upper / "app/.next")
    taken = write(tmp_path / "taken", {})
    take_directories(upper, ["app/.next/cache", "node_modules/.cache", "missing/cache"], taken)
    assert files_of(taken) == {"app/.next/cache/a": "1", "node_modules/.cache/b": "1"}
    assert os.listxattr(taken / "app/.next/cache") == [OPAQUE]
    assert not os.listxattr(taken / "node_modules/.cache")


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"cache/secret": "1"})
    upper = write(tmp_path / "upper", {})
    (upper / ".next").symlink_to(outside)
    (upper / "cache").symlink_to(outside / "cache")
    assert not has_directory(upper, ".next/cache")
    taken = write(tmp_path / "taken", {})
    take_directories(upper, [".next/cache", "cache"], taken)
    assert files_of(taken) == {}
    assert files_of(outside) == {"cache/secret": "1"}


@as_ordinary_user
def test_nothing_is_found_in_a_directory_that_is_shut(tmp_path: Path) -> None:
    (tmp_path / "node_modules" / ".cache").mkdir(parents=True)
    (tmp_path / "node_modules").chmod(0)
    assert not has_directory(tmp_path, "node_modules/.cache")
