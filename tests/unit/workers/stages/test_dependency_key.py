"""What makes an install happen again, and what the log says about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import write_site
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Overrides, detect
from workers.frameworks.install_inputs import read_dependency_files, source_reader
from workers.frameworks.source_tree import SourceTree
from workers.pipeline.cache_key import cache_key, explain_miss
from workers.stages.install.dependency_key import dependency_components

TOOLCHAIN = Toolchain(
    binds=(),
    shims={},
    path="/usr/bin",
    environment={},
    python="/usr/bin/python3",
    node_version="24.1.0",
    npm_version="11.0.0",
    python_version="3.11.9",
    uv_version="0.9.0",
)

Site = Mapping[str, str | bytes]


def package(**fields: Any) -> str:
    return json.dumps({"name": "site", "dependencies": {"vite": "7"}, **fields})


NODE_SITE: Site = {"package.json": package(), "package-lock.json": "{}"}
PYTHON_SITE: Site = {"mkdocs.yml": "", "requirements.txt": "mkdocs==1.6.1"}


def components_of(
    root: Path, site: Site, toolchain: Toolchain = TOOLCHAIN, directory: str = ".", **overrides: Any
) -> dict[str, str]:
    write_site(root, site)
    detection = detect(root, Path(directory), Overrides(**overrides))
    return dependency_components(read_dependency_files(SourceTree(root), detection), detection, toolchain)


def reads(root: Path, site: Site, **overrides: Any) -> bool:
    write_site(root, site)
    return source_reader(SourceTree(root), detect(root, Path(), Overrides(**overrides))) is not None


@pytest.mark.parametrize(
    ("site", "change", "reason"),
    [
        (NODE_SITE, {"package-lock.json": "{ }"}, "lockfile changed"),
        (NODE_SITE, {"package.json": package(dependencies={"vite": "8"})}, "package.json changed"),
        (NODE_SITE, {"package.json": package(scripts={"postinstall": "node x.js"})}, "package.json changed"),
        (NODE_SITE, {".npmrc": "legacy-peer-deps=true"}, "configuration added"),
        (NODE_SITE, {"patches/vite.patch": "x"}, "configuration added"),
        (PYTHON_SITE, {"requirements.txt": "mkdocs==1.6.0"}, "lockfile changed"),
        (PYTHON_SITE, {"uv.toml": "x"}, "configuration added"),
        (NODE_SITE, {"package.json": package(catalog={"vite": "8"})}, "package.json changed"),
        (NODE_SITE, {"package.json": package(scripts={"pnpm:devPreinstall": "node x.js"})}, "package.json changed"),
    ],
)
def test_what_an_install_reads_changes_its_key_and_is_named(
    tmp_path: Path, site: Site, change: Site, reason: str
) -> None:
    before = components_of(tmp_path / "before", site)
    now = components_of(tmp_path / "now", {**site, **change})
    assert cache_key(before) != cache_key(now)
    assert explain_miss(now, before) == reason


@pytest.mark.parametrize(
    ("site", "change"),
    [
        (NODE_SITE, {"src/main.js": "x", "README.md": "y"}),
        (NODE_SITE, {"package.json": package(scripts={"build": "vite build"}, description="new")}),
        (PYTHON_SITE, {"docs/index.md": "# new"}),
    ],
)
def test_what_an_install_does_not_read_leaves_its_key(tmp_path: Path, site: Site, change: Site) -> None:
    before = components_of(tmp_path / "before", site)
    assert components_of(tmp_path / "now", {**site, **change}) == before


def test_a_newer_toolchain_and_another_command_are_named(tmp_path: Path) -> None:
    before = components_of(tmp_path, NODE_SITE)
    newer = components_of(tmp_path, NODE_SITE, replace(TOOLCHAIN, node_version="26.0.0"))
    assert explain_miss(newer, before) == "node 24.1.0 → 26.0.0"
    assert "npm 11.0.0 → 12.0.0" in explain_miss(
        components_of(tmp_path, NODE_SITE, replace(TOOLCHAIN, npm_version="12.0.0")), before
    )
    other = components_of(tmp_path, NODE_SITE, install_command="npm ci --omit=optional")
    assert explain_miss(other, before) == "install command npm ci → npm ci --omit=optional"
    # A Python project doesn't depend on Node.
    python = components_of(tmp_path / "python", PYTHON_SITE)
    assert components_of(tmp_path / "python", PYTHON_SITE, replace(TOOLCHAIN, node_version="26.0.0")) == python


def test_dependencies_belong_to_a_platform_and_an_interpreters_place(tmp_path: Path) -> None:
    components = components_of(tmp_path, NODE_SITE)
    assert re.fullmatch(r"linux-\w+-(?:glibc-[\d.]+|musl)", components["platform"])
    # In a builder image the host's C library plays no part.
    imaged = components_of(tmp_path, NODE_SITE, replace(TOOLCHAIN, image="sha256:1"))
    assert components["platform"].startswith(imaged["platform"] + "-")
    python = components_of(tmp_path / "python", PYTHON_SITE)
    moved = components_of(tmp_path / "python", PYTHON_SITE, replace(TOOLCHAIN, python="/opt/python/bin/python3"))
    assert explain_miss(moved, python) == "interpreter /usr/bin/python3 → /opt/python/bin/python3"


def test_every_member_of_a_workspace_counts(tmp_path: Path) -> None:
    site = {
        "package.json": package(workspaces=["apps/*"]),
        "package-lock.json": "{}",
        "apps/a/package.json": package(name="a", scripts={"build": "x"}),
        "apps/b/package.json": package(name="b"),
    }
    before = components_of(tmp_path / "before", site, directory="apps/a")
    now = components_of(tmp_path / "now", {**site, "apps/b/package.json": package(version="2.0.0")}, directory="apps/a")
    assert explain_miss(now, before) == "package.json changed"


@pytest.mark.parametrize(
    ("workspace", "lockfile"),
    [
        ({"package.json": package(workspaces=["apps/*"])}, "package-lock.json"),
        ({"package.json": package(workspaces={"packages": ["./apps/**"]})}, "yarn.lock"),
        ({"package.json": "{}", "pnpm-workspace.yaml": "packages:\n  - 'apps/*' # all\n"}, "pnpm-lock.yaml"),
    ],
)
def test_a_lockfile_of_its_own_does_not_take_a_member_out_of_its_workspace(
    tmp_path: Path, workspace: Site, lockfile: str
) -> None:
    # Seen with npm 11 and pnpm 10: they install what the workspace's lockfile says, whatever the member's does.
    site = {**workspace, lockfile: "", f"apps/a/{lockfile}": "", "apps/a/package.json": package()}
    before = components_of(tmp_path / "before", site, directory="apps/a")
    for name, change in enumerate(
        ({lockfile: "new"}, {"apps/b/package.json": package(name="b")}, {"patches/a": "x"}, {"apps/a/patches/a": "x"})
    ):
        assert components_of(tmp_path / str(name), {**site, **change}, directory="apps/a") != before
    # A project that is no member of it doesn't depend on it.
    apart = {**site, f"docs/{lockfile}": "", "docs/package.json": package()}
    before = components_of(tmp_path / "apart", apart, directory="docs")
    change = {lockfile: "new", "apps/b/package.json": package(name="b")}
    assert components_of(tmp_path / "still", {**apart, **change}, directory="docs") == before


def test_every_lockfile_of_a_pnpm_workspace_counts(tmp_path: Path) -> None:
    site = {"package.json": package(), "pnpm-workspace.yaml": "packages: ['apps/*']", "pnpm-lock.yaml": ""}
    before = components_of(tmp_path / "before", {**site, "apps/a/pnpm-lock.yaml": ""})
    assert components_of(tmp_path / "now", {**site, "apps/a/pnpm-lock.yaml": "new"}) != before


def test_a_broken_package_file_of_a_fixture_breaks_no_install(tmp_path: Path) -> None:
    site = {"package.json": package(workspaces=["apps/*"]), "package-lock.json": "{}", "test/package.json": "{ oops"}
    assert components_of(tmp_path, site)["lockfile"]
    assert reads(tmp_path, site) is False


@pytest.mark.parametrize(
    ("site", "settings", "expected"),
    [
        (NODE_SITE, {}, False),
        (NODE_SITE, {"install_command": "npm ci --legacy-peer-deps"}, False),
        (NODE_SITE, {"install_command": "npm ci && node prepare.js"}, True),
        (NODE_SITE, {"install_command": "npm run setup"}, True),
        (NODE_SITE, {"install_command": "./install.sh"}, True),
        ({"package.json": package(scripts={"postinstall": "node x.js"})}, {}, True),
        ({"package.json": package(scripts={"prepare": "node x.js"})}, {}, True),
        ({"package.json": package(scripts={"prepare": "husky"})}, {}, False),
        ({"package.json": package(scripts={"prepare": "husky && node x.js"})}, {}, True),
        ({"package.json": package(scripts={"preinstall": "npx only-allow pnpm"})}, {}, False),
        ({"package.json": package(scripts={"preinstall": "npx only-allow pnpm; node x.js"})}, {}, True),
        ({"package.json": package(scripts={"postinstall": "patch-package && is-ci || husky install"})}, {}, False),
        ({"package.json": package(scripts={"postinstall": "patch-package --patch-dir other"})}, {}, True),
        ({"package.json": package(scripts={"prepare": "lefthook install || true"})}, {}, False),
        ({"package.json": package(dependencies={"vite": "7", "a": "file:./a"})}, {}, True),
        ({**NODE_SITE, "binding.gyp": ""}, {}, True),
        (PYTHON_SITE, {}, False),
        ({"mkdocs.yml": "", "requirements.txt": "-r other.txt"}, {}, True),
        ({"mkdocs.yml": "", "requirements.txt": "mkdocs\n./plugin\n"}, {}, True),
        ({"mkdocs.yml": "", "requirements.txt": "plugin @ file:plugin"}, {}, True),
        ({**PYTHON_SITE, "pyproject.toml": "[build-system]\nrequires=[]"}, {}, False),
        ({**PYTHON_SITE, "pyproject.toml": "[tool.uv]\nfind-links=['wheels']"}, {}, True),
        ({"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "[project]\nname='a'"}, {}, False),
        ({"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "[build-system]\nrequires=[]"}, {}, True),
        # Pipenv without a lockfile reads what its Pipfile names.
        ({"mkdocs.yml": "", "Pipfile": "[packages]\nmkdocs = '*'"}, {}, False),
        ({"mkdocs.yml": "", "Pipfile": "[packages]\nplugin = {path = './plugin'}"}, {}, True),
        ({"mkdocs.yml": "", "Pipfile": "[packages.plugin]\nfile = 'plugin.whl'"}, {}, True),
        # Commands that run scripts of the project, or install what another file says.
        (NODE_SITE, {"install_command": "npm install eslint@9 --no-audit"}, False),
        (NODE_SITE, {"install_command": "npm ci --prefix frontend"}, True),
        (NODE_SITE, {"install_command": "npm install ./vendor/plugin.tgz"}, True),
        (NODE_SITE, {"install_command": "npm install plugin.tgz"}, True),
        (NODE_SITE, {"install_command": "npm rebuild"}, True),
        (NODE_SITE, {"install_command": "yarn install"}, True),
        (NODE_SITE, {"install_command": "npm ci && pip install -r requirements.txt"}, True),
        ({"package.json": package(), "yarn.lock": ""}, {"install_command": "yarn setup"}, True),
        ({"package.json": package(), "yarn.lock": ""}, {"install_command": "yarn --frozen-lockfile"}, True),
        ({"package.json": package(), "yarn.lock": ""}, {"install_command": "yarn install --frozen-lockfile"}, False),
        ({"package.json": package(), "bun.lock": ""}, {"install_command": "bun prepare.ts"}, True),
        ({"package.json": package(), "pnpm-lock.yaml": ""}, {"install_command": "pnpm -C sub install"}, True),
        (PYTHON_SITE, {"install_command": "pip install -r requirements.txt"}, False),
        (PYTHON_SITE, {"install_command": "uv pip install -r requirements.txt mkdocs-material==9.6"}, False),
        (PYTHON_SITE, {"install_command": "pip install -r requirements.txt -r dev.txt"}, True),
        (PYTHON_SITE, {"install_command": "pip install -e ."}, True),
        (PYTHON_SITE, {"install_command": "pip install ."}, True),
        (PYTHON_SITE, {"install_command": "uv sync"}, True),
        # Dependencies that are files of the repository, in every spelling.
        ({"package.json": package(dependencies={"vite": "7", "a": "vendor/a-1.0.tgz"})}, {}, True),
        ({"package.json": package(dependencies={"vite": "7", "a": "owner/repository"})}, {}, False),
        ({"package.json": package(dependencies={"vite": "~7.1", "a": "https://example.com/a.tgz"})}, {}, False),
        ({"package.json": package(overrides={"b": {"a": "file:./a"}})}, {}, True),
        ({"package.json": package(resolutions={"a": "patch:a@npm%3A1.0.0#./a.patch"})}, {}, True),
        ({"package.json": package(resolutions={"a": "patch:a@npm%3A1.0.0#~/.yarn/patches/a.patch"})}, {}, False),
        ({"package.json": package(pnpm={"patchedDependencies": {"a@1": "fixes/a.patch"}})}, {}, True),
        ({"package.json": package(pnpm={"patchedDependencies": {"a@1": "patches/a.patch"}})}, {}, False),
        ({"package.json": package(dependenciesMeta={"a": {"injected": True}})}, {}, True),
        ({**NODE_SITE, "pnpm-workspace.yaml": "injectWorkspacePackages: true\n"}, {}, True),
        ({**NODE_SITE, "pnpm-workspace.yaml": "overrides:\n  a: link:../a\n"}, {}, True),
        ({**NODE_SITE, "pnpm-workspace.yaml": "patchedDependencies:\n  a@1: fixes/a.patch\n"}, {}, True),
        ({**NODE_SITE, "pnpm-workspace.yaml": "packages:\n  - './apps/*'\nlockfile: true\n"}, {}, False),
        ({**NODE_SITE, ".pnpmfile.cjs": "module.exports = require('./hooks.cjs')"}, {}, True),
        ({**NODE_SITE, ".npmrc": "node-options=--require ./hook.cjs\n"}, {}, True),
        ({**NODE_SITE, ".npmrc": "legacy-peer-deps=true\n"}, {}, False),
        # The client of Prisma is generated from the project's schema while it is installed.
        ({"package.json": package(dependencies={"vite": "7", "@prisma/client": "6"})}, {}, True),
        # What the repository holds of them already.
        ({**NODE_SITE, "node_modules/a/index.js": ""}, {}, True),
        ({**PYTHON_SITE, ".venv/bin/python": ""}, {}, True),
        # Python's.
        ({"mkdocs.yml": "", "requirements.txt": "mkdocs\nplugins/theme\n"}, {}, True),
        ({"mkdocs.yml": "", "requirements.txt": "theme-1.0-py3-none-any.whl\n"}, {}, True),
        ({"mkdocs.yml": "", "requirements.txt": "file:///workspace/theme\n"}, {}, True),
        ({"mkdocs.yml": "", "requirements.txt": "theme @ ./theme\n"}, {}, True),
        ({"mkdocs.yml": "", "requirements.txt": "--find-links wheels\nmkdocs\n"}, {}, True),
        (
            {
                "mkdocs.yml": "",
                "requirements.txt": "# pinned\n--index-url https://example.com/simple\nmkdocs[i18n] >= 1.6, < 2 ; "
                "python_version > '3'  # why\nclick==8.1 \\\n    --hash=sha256:00\ntheme @ https://example.com/t.whl\n",
            },
            {},
            False,
        ),
        ({"mkdocs.yml": "", "uv.lock": 'source = { editable = "../theme" }', "pyproject.toml": ""}, {}, True),
        ({"mkdocs.yml": "", "uv.lock": 'source = { virtual = "." }', "pyproject.toml": ""}, {}, False),
        ({"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "[tool.uv]\nsources.a = { path = 'a' }"}, {}, True),
        ({"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "build-system = { requires = [] }"}, {}, True),
        ({"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "[tool.uv]\npackage = true"}, {}, True),
        ({"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "[tool.uv]\npackage = false"}, {}, False),
        ({"mkdocs.yml": "", "Pipfile.lock": '{"default": {"a": {"path": "./a"}}}'}, {}, True),
        ({"mkdocs.yml": "", "Pipfile.lock": '{"default": {"a": {"version": "==1"}}}'}, {}, False),
        (
            {"mkdocs.yml": "", "poetry.lock": '[package.source]\ntype = "directory"', "pyproject.toml": ""},
            {},
            True,
        ),
    ],
)
def test_installs_that_may_read_any_file_are_known(
    tmp_path: Path, site: Site, settings: dict[str, str], expected: bool
) -> None:
    assert reads(tmp_path, site, **settings) is expected
