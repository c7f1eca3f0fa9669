"""Directories of untrusted trees are never entered through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.filesystem.descent import opened_below, opened_parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "file").write_text("inside")
    (tmp_path / "tree" / "link").symlink_to("a")
    (tmp_path / "outside").mkdir()
    return tmp_path / "tree"


@pytest.mark.parametrize(("path", "holds"), [("", ["a", "link"]), (".", ["a", "link"]), ("./a//", ["b", "file"])])
def test_a_directory_below_is_opened(tree: Path, path: str, holds: list[str]) -> None:
    with opened_below(tree, path) as directory:
        assert sorted(os.listdir(directory)) == holds


@pytest.mark.parametrize("path", ["link", "link/b", "a/file", "missing", "..", "a/../../outside", "a\0", "n" * 300])
def test_neither_links_nor_what_lies_outside_are_opened_and_no_descriptor_stays(tree: Path, path: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"\[Errno"), opened_below(tree, path):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_file_is_named_in_its_directory(tree: Path) -> None:
    for path, name in (("a/file", "file"), ("link", "link")):
        with opened_parent(tree, path) as (directory, found):
            assert found == name
            assert found in os.listdir(directory)
