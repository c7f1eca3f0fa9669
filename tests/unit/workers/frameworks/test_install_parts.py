"""Which installs are split in two, and into which commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import write_site
from workers.frameworks.detection import Overrides, detect
from workers.frameworks.install_inputs import read_dependency_files
from workers.frameworks.install_parts import InstallParts
from workers.frameworks.source_tree import SourceTree

Site = Mapping[str, str | bytes]


def package(scripts: Mapping[str, str], **fields: Any) -> str:
    return json.dumps({"name": "site", "dependencies": {"vite": "7"}, "scripts": scripts, **fields})


def parts_of(root: Path, site: Site, directory: str = ".", **overrides: Any) -> InstallParts | None:
    write_site(root, site)
    detection = detect(root, Path(directory), Overrides(**overrides))
    return read_dependency_files(SourceTree(root), detection).parts


@pytest.mark.parametrize(
    ("files", "scripts", "own"),
    [
        ({"package-lock.json": "{}"}, {"postinstall": "node x.js"}, "npm run postinstall"),
        ({"package-lock.json": "{}"}, {"prepare": "husky && node x.js"}, "npm run prepare"),
        (
            {"pnpm-lock.yaml": ""},
            {"postinstall": "a", "prepare": "b", "preprepare": "c"},
            "pnpm run postinstall && pnpm run prepare",
        ),
        # These run the scripts before and after them as well.
        ({"yarn.lock": ""}, {"install": "a", "postinstall": "b"}, "yarn run install"),
        ({"bun.lock": ""}, {"postinstall": "a", "preinstall": "npx only-allow bun"}, "bun run postinstall"),
        ({"yarn.lock": "", ".yarnrc.yml": ""}, {"install": "a", "postinstall": "b", "prepare": "c"},
         "yarn run install && yarn run postinstall"),
        # Yarn from 2 on runs no such script.
        ({"yarn.lock": "", ".yarnrc.yml": ""}, {"prepare": "c"}, ""),
    ],
)  # fmt: skip
def test_scripts_that_run_after_the_packages_are_split_off(
    tmp_path: Path, files: Site, scripts: dict[str, str], own: str
) -> None:
    site = {**files, "package.json": package({"build": "vite build", **scripts}, private=True)}
    parts = parts_of(tmp_path, site)
    assert parts is not None
    assert parts.own == own
    seen = json.loads(parts.package)
    kept = {name: text for name, text in scripts.items() if name == "preinstall"}
    assert seen == {**json.loads(site["package.json"]), "scripts": {"build": "vite build", **kept}}


@pytest.mark.parametrize(
    ("site", "settings"),
    [
        # Nothing to split: dependencies fit every commit.
        ({"package.json": package({"prepare": "husky"})}, {}),
        # They run before the packages are there, or at a moment that differs among versions.
        ({"package.json": package({"preinstall": "node x.js", "postinstall": "a"})}, {}),
        ({"package.json": package({"prepublish": "node x.js"})}, {}),
        ({"package.json": package({"dependencies": "node x.js"})}, {}),
        ({"package.json": package({"postprepare": "node x.js"})}, {}),
        # Something else reads files as well.
        ({"package.json": package({"postinstall": "a"}, devDependencies={"a": "file:./a"})}, {}),
        ({"package.json": package({"postinstall": "a"}, dependencies={"vite": "7", "@prisma/client": "6"})}, {}),
        ({"package.json": package({"postinstall": "a"}), "binding.gyp": ""}, {}),
        ({"package.json": package({"postinstall": "a"})}, {"install_command": "npm ci && node x.js"}),
        (
            {
                "package.json": package({"postinstall": "a"}, workspaces=["b"]),
                "b/package.json": package({"prepare": "node y.js"}),
            },
            {"framework": "vite"},
        ),
        # Its scripts don't run.
        ({"package.json": package({"postinstall": "a"})}, {"install_command": "npm install is-odd@3.0.1"}),
        ({"package.json": package({"postinstall": "a"}), "pnpm-lock.yaml": ""}, {"install_command": "pnpm add is-odd"}),
        ({"package.json": package({"postinstall": "a"}), ".npmrc": "ignore-scripts=true"}, {}),
        ({"package.json": package({"postinstall": "a"}), "yarn.lock": "", ".yarnrc.yml": "enableScripts: false"}, {}),
        ({"package.json": package({"postinstall": "a"})}, {"install_command": "npm install --ignore-scripts"}),
    ],
)
def test_other_installs_stay_in_one_part(tmp_path: Path, site: Site, settings: dict[str, str]) -> None:
    assert parts_of(tmp_path, site, **settings) is None


UV: Site = {
    "mkdocs.yml": "",
    "pyproject.toml": "[build-system]\nrequires=[]\n[dependency-groups]\ndocs=[]",
    "uv.lock": 'name = "mkdocs"\nsource = { editable = "." }\nsource = { registry = "https://index.invalid/simple" }',
}
POETRY: Site = {"mkdocs.yml": "", "pyproject.toml": "[tool.poetry]\nname='a'", "poetry.lock": 'name = "mkdocs"'}


def test_a_python_project_that_is_a_package_comes_second(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "uv", UV)
    assert parts is not None
    assert parts.packages == "uv sync --locked --group docs --no-install-local"
    assert parts.own == "uv sync --locked --group docs"
    parts = parts_of(tmp_path / "poetry", POETRY)
    assert parts is not None
    assert (parts.packages, parts.own) == ("poetry sync --no-root", "poetry install --only-root")


@pytest.mark.parametrize(
    ("site", "settings"),
    [
        ({**UV, "uv.lock": 'source = { registry = "wheels" }'}, {}),
        ({**UV, "pyproject.toml": "[build-system]\nrequires=[]\n[tool.uv]\nfind-links=['wheels']"}, {}),
        ({**UV, "uv.toml": "find-links = ['wheels']"}, {}),
        (UV, {"install_command": "uv sync --no-install-project"}),
        ({"mkdocs.yml": "", "pyproject.toml": UV["pyproject.toml"]}, {}),
        ({**POETRY, "poetry.lock": 'type = "directory"'}, {}),
        ({"mkdocs.yml": "", "requirements.txt": "-e ."}, {}),
    ],
)
def test_python_packages_next_to_the_project_stay_with_it(tmp_path: Path, site: Site, settings: dict[str, str]) -> None:
    assert parts_of(tmp_path, site, **settings) is None
