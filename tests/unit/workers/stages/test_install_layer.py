"""Which layers of an install fit other commits than the one they were made over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.ordinary_user import as_ordinary_user
from tests.support.repositories import write_site
from workers.filesystem.trees import remove_tree
from workers.stages.install.layer import changes_source


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"node_modules/a/index.js": "", "apps/web/node_modules/b/index.js": "", "package-lock.json": "{}"}, False),
        ({".venv/bin/python": "", ".yarn/cache/a.zip": "", ".pnp.cjs": ""}, False),
        ({"node_modules/a/index.js": "", "public/worker.js": ""}, True),
        ({".yarn/releases/yarn.cjs": ""}, True),
    ],
)
def test_only_dependencies_fit_another_commit(tmp_path: Path, written: dict[str, str], expected: bool) -> None:
    write_site(tmp_path, written)
    assert changes_source(tmp_path) is expected


def test_a_link_to_a_directory_is_a_change(tmp_path: Path) -> None:
    write_site(tmp_path, {"node_modules/a/index.js": ""})
    (tmp_path / "public").mkdir()
    assert changes_source(tmp_path) is False
    (tmp_path / "public" / "vendor").symlink_to("../node_modules")
    assert changes_source(tmp_path) is True


def test_paths_longer_than_the_kernel_takes_are_looked_at(tmp_path: Path) -> None:
    depth, name = 30, "d" * 255
    descriptors = [os.open(tmp_path, os.O_RDONLY)]
    try:
        for _ in range(depth):
            os.mkdir(name, dir_fd=descriptors[-1])
            descriptors.append(os.open(name, os.O_RDONLY, dir_fd=descriptors[-1]))
        assert changes_source(tmp_path) is False
        os.symlink(".", "link", dir_fd=descriptors[-1])
        assert changes_source(tmp_path) is True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        # pytest's own clean-up goes by whole paths.
        remove_tree(tmp_path / name)


@as_ordinary_user
def test_a_directory_that_cant_be_looked_into_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    assert changes_source(tmp_path) is True
