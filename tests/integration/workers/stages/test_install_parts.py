"""A project's own scripts and its own package are installed for each commit, over packages that all commits share."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from shared.db.database import Database
from shared.settings import ObjectStoreSettings
from tests.support.lockfiles import index_url
from tests.support.repositories import SITES
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

PREPARES = (
    "require('fs').writeFileSync('made.txt', require('fs').readFileSync('page.txt') + String(require('is-odd')(3)))"
)
BUILDS = "const fs = require('fs'); fs.mkdirSync('dist'); fs.copyFileSync('made.txt', 'dist/index.html')"


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory,
    module_database: Database,
    module_object_store_settings: ObjectStoreSettings,
) -> Iterator[Pipeline]:
    directory = tmp_path_factory.mktemp("parts")
    toolchain = Toolchain.discover()
    with open_pipeline(directory, toolchain, module_database, module_object_store_settings) as pipeline:
        yield pipeline


def site_with(manager: str, script: str) -> dict[str, str | bytes]:
    directory = SITES / manager
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    package = json.loads(files["package.json"])
    # What `pnpm run` prints, and whether dependencies' own scripts may run, plays no part here.
    package["scripts"] = {"build": "node build.js", script: "node prepare.js"}
    return {
        **files,
        "package.json": json.dumps(package),
        "prepare.js": PREPARES,
        "build.js": BUILDS,
        "page.txt": "one ",
    }


@pytest.mark.parametrize(
    ("manager", "script"),
    [("pnpm", "prepare"), ("yarn", "prepare"), ("berry", "postinstall"), ("bun", "postinstall")],
)
def test_scripts_of_the_project_run_for_each_commit_over_the_same_packages(
    pipeline: Pipeline, manager: str, script: str
) -> None:
    site = site_with(manager, script)
    assert pipeline.run(site)["index.html"] == "one true"
    first = pipeline.install(site)
    assert first.is_cache_hit
    changed = pipeline.install({**site, "page.txt": "two "})
    assert "No cached prepared files: source changed." in pipeline.log.lines
    assert changed.output.dependencies == first.output.dependencies
    assert changed.output.prepared != first.output.prepared
    assert not changed.is_cache_hit
    with pipeline.snapshots.attach(TENANT, changed.output.prepared) as layer:
        assert [path.relative_to(layer).as_posix() for path in layer.rglob("made.txt")] == ["made.txt"]
        assert not (layer / "node_modules/is-odd").exists()
    assert pipeline.run({**site, "page.txt": "two "})["index.html"] == "two true"


def test_a_uv_project_that_is_a_package_is_installed_over_its_packages(pipeline: Pipeline) -> None:
    site: dict[str, str | bytes] = {
        "mkdocs.yml": "site_name: a\n",
        "pyproject.toml": (
            "[build-system]\nrequires = ['setuptools==80.9.0']\nbuild-backend = 'setuptools.build_meta'\n"
            "[project]\nname = 'plugin'\nversion = '1.0'\nrequires-python = '>=3.9'\n"
            "dependencies = ['pathspec==1.1.1', 'mkdocs<2']\n[tool.setuptools]\npy-modules = ['plugin']\n"
            f"[[tool.uv.index]]\nurl = '{index_url()}'\ndefault = true\n"
        ),
        "plugin.py": "import pathspec\nTEXT = 'one ' + pathspec.__name__\n",
    }
    site["make.py"] = "import os, plugin\nos.mkdir('dist')\nopen('dist/index.html', 'w').write(plugin.TEXT)\n"
    settings = {"build_command": "python make.py", "output_directory": "dist"}
    locked = pipeline.install(site, install_command="uv lock", **settings)
    with pipeline.snapshots.attach(TENANT, locked.output.dependencies) as layer:
        site["uv.lock"] = (layer / "uv.lock").read_bytes()
    assert pipeline.run(site, **settings)["index.html"] == "one pathspec"
    assert "$ uv sync --locked --no-install-local" in pipeline.install_log.lines
    first = pipeline.install(site, **settings)
    changed = {**site, "plugin.py": "TEXT = 'two'\n"}
    second = pipeline.install(changed, **settings)
    assert second.output.dependencies == first.output.dependencies
    with pipeline.snapshots.attach(TENANT, second.output.prepared) as layer:
        assert list(layer.glob(".venv/lib/*/site-packages/pathspec")) == []
    assert pipeline.run(changed, **settings)["index.html"] == "two"


def test_an_install_that_rewrites_package_json_runs_in_one_part(pipeline: Pipeline) -> None:
    site = site_with("berry", "postinstall")
    del site["yarn.lock"]
    # Later versions of yarn sort them.
    package = json.loads(site["package.json"]) | {"dependencies": {"is-odd": "3.0.1", "is-even": "1.0.0"}}
    site["package.json"] = json.dumps(package)
    installed = pipeline.install(site)
    assert "The install rewrites package.json, so it runs again, in one part." in pipeline.log.lines
    assert installed.output.prepared is None
    with pipeline.snapshots.attach(TENANT, installed.output.dependencies) as layer:
        assert "node prepare.js" in (layer / "package.json").read_text()
        assert (layer / "made.txt").read_text() == "one true"
    assert pipeline.install(site).output.dependencies == installed.output.dependencies
