"""Which layers of an install fit other commits than the one they were made over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repositories import write_site
from workers.stages.install import changes_source


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
