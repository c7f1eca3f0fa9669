"""What a commit must touch for a project in a subdirectory to be built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import write_site
from workers.frameworks.detection import Overrides, detect
from workers.frameworks.source_tree import SourceTree
from workers.frameworks.watched_paths import watched_paths

WEB = {"apps/web/package.json": json.dumps({"name": "web", "scripts": {"build": "vite build"}})}


def watched(root: Path, site: dict[str, str | bytes], directory: str = "apps/web", **overrides: Any) -> list[str]:
    write_site(root, {**WEB, **site})
    return watched_paths(SourceTree(root), detect(root, Path(directory), Overrides(**overrides)))


def test_all_of_the_repository_counts_for_a_project_at_its_root(tmp_path: Path) -> None:
    assert watched(tmp_path, {"index.html": ""}, ".") == ["."]


def test_the_directory_and_what_decides_the_install_count(tmp_path: Path) -> None:
    paths = watched(tmp_path, {"README.md": "", "libs/a.js": ""})
    assert paths[0] == "apps/web"
    assert {"package-lock.json", ".npmrc", "patches", ".pnpmfile.cjs", "bunfig.toml", "Pipfile.lock"} <= set(paths)
    assert not {".", "libs", "README.md"} & set(paths)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ({"apps/web/tailwind.config.js": "content: ['../../libs/ui/src/**/*.html']"}, "libs/ui/src"),
        ({"apps/web/tsconfig.json": '{"extends": "../../configs/web.json"}'}, "configs/web.json"),
        ({"apps/web/build.sh": "cp ../shared/logo.svg public/"}, "apps/shared/logo.svg"),
        ({"apps/web/package.json": '{"name": "web", "dependencies": {"ui": "file:../../ui"}}'}, "ui"),
        # What those lead to counts as well.
        (
            {
                "apps/web/tsconfig.json": '{"extends": "../../configs/web.json"}',
                "configs/web.json": '{"extends": "../base/common.json"}',
            },
            "base/common.json",
        ),
        # So does what the packages of the workspace lead to.
        (
            {
                "package.json": json.dumps({"workspaces": ["apps/*", "packages/*"]}),
                "apps/web/package.json": json.dumps({"name": "web", "dependencies": {"ui": "1"}}),
                "packages/ui/package.json": json.dumps({"name": "ui"}),
                "packages/ui/vite.config.js": "import '../../tools/vite.js'",
            },
            "tools/vite.js",
        ),
    ],
)
def test_what_its_configuration_leads_to_counts(tmp_path: Path, site: dict[str, str | bytes], expected: str) -> None:
    paths = watched(tmp_path, site, build_command="npm run build")
    assert expected in paths
    assert "." not in paths


@pytest.mark.parametrize(
    ("site", "build_command"),
    [
        ({"apps/web/conf.py": "sys.path.insert(0, os.path.abspath('..'))"}, "npm run build"),
        ({"apps/web/vite.config.js": "path.join(__dirname, '..', '..', 'content')"}, "npm run build"),
        ({"apps/web/vite.config.js": "root: '../../'"}, "npm run build"),
        ({}, "cd ../.. && npm run build"),
        ({"nx.json": "{}"}, "npm run build"),
        (
            {
                "apps/web/tsconfig.json": '{"extends": "../../tsconfig.base.json"}',
                "tsconfig.base.json": '{"compilerOptions": {"paths": {"@libs/ui": ["libs/ui/src"]}}}',
            },
            "npm run build",
        ),
    ],
)
def test_in_doubt_everything_counts(tmp_path: Path, site: dict[str, str | bytes], build_command: str) -> None:
    assert watched(tmp_path, site, build_command=build_command) == ["."]


def test_where_links_lead_counts(tmp_path: Path) -> None:
    write_site(tmp_path, {**WEB, "content/a.md": "a", "apps/web/src/x": ""})
    (tmp_path / "apps/web/src/content").symlink_to("../../../content")
    (tmp_path / "apps/web/src/hosts").symlink_to("/etc/hosts")
    paths = watched(tmp_path, {}, build_command="npm run build")
    assert "content" in paths
    assert not any("hosts" in path for path in paths)


def test_a_page_full_of_dots_is_no_reference(tmp_path: Path) -> None:
    site: dict[str, str | bytes] = {
        "apps/web/vite.config.js": "const all = [...plugins]; // 1..2 ./src ../web/src",
        "apps/web/package-lock.json": '"../../x"',
        "apps/web/README.md": "../../elsewhere",
    }
    paths = watched(tmp_path, site, build_command="npm run build")
    assert not any(path in ("x", "elsewhere", ".") for path in paths)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        # A file stands for its directory, because the files next to it that it imports count as well.
        ({"apps/web/src/deep/a.ts": "import x from '../../../../shared/x'", "shared/x.ts": ""}, "shared"),
        ({"apps/web/docs/a.md": "<<< ../../../examples/a.py#part", "examples/a.py": ""}, "examples"),
        ({"apps/web/src/a.vue": "import('../../common/' + name)", "apps/common/x.js": ""}, "apps/common"),
        ({"apps/web/docs/a.md": "--8<-- ../../../CHANGELOG.md", "CHANGELOG.md": ""}, "CHANGELOG.md"),
        # What is led to leads further.
        (
            {
                "apps/web/src/a.ts": "import '../../../shared/src/x'",
                "shared/src/x.ts": "import '../../other/y'",
                "other/y.ts": "",
            },
            "other",
        ),
        # So do the packages of the workspace.
        (
            {
                "package.json": json.dumps({"workspaces": ["apps/*", "packages/*"]}),
                "apps/web/package.json": json.dumps({"name": "web", "dependencies": {"ui": "1"}}),
                "packages/ui/package.json": json.dumps({"name": "ui"}),
                "packages/ui/src/a.css": "@import '../../../styles/main.css'",
                "styles/main.css": "",
            },
            "styles",
        ),
        ({"postcss.config.mjs": ""}, "postcss.config.mjs"),
    ],
)
def test_what_its_sources_import_from_elsewhere_counts(
    tmp_path: Path, site: dict[str, str | bytes], expected: str
) -> None:
    paths = watched(tmp_path, site, build_command="npm run build")
    assert expected in paths
    assert "." not in paths


@pytest.mark.parametrize(
    "site",
    [
        {"apps/web/src/a.ts": "import config from '../../../config'", "config.ts": ""},
        {"apps/web/src/a.ts": "path.resolve(__dirname, '../../')"},
        # The install at the root runs a script, or installs what lies there.
        {"package.json": json.dumps({"workspaces": ["apps/*"], "scripts": {"postinstall": "node scripts/make.js"}})},
        {"apps/web/mkdocs.yml": "", "requirements.txt": "-r requirements/docs.txt"},
    ],
)
def test_sources_and_installs_that_may_read_anything_count_for_everything(
    tmp_path: Path, site: dict[str, str | bytes]
) -> None:
    assert watched(tmp_path, site) == ["."]


def test_paths_that_stay_inside_or_lead_nowhere_count_for_nothing(tmp_path: Path) -> None:
    site: dict[str, str | bytes] = {
        "apps/web/src/pages/a.ts": "import '../b'; import '../../public/c'; // ../../../../../../etc/passwd",
        "apps/web/src/pages/b.md": "[there](../../../../nowhere/to/be)",
        "apps/web/src/b.ts": "",
        "libs/a.js": "",
    }
    paths = watched(tmp_path, site, build_command="npm run build")
    assert not any(path in (".", "libs", "nowhere/to", "apps") for path in paths)
