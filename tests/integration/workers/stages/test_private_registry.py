"""Packages that a registry hands out to those with a token alone: a variable that installs may see brings it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.errors import FailureCode, StageFailure
from shared.settings import NetworkSettings, ObjectStoreSettings
from tests.support.package_registry import GREETING, HOST, PACKAGE, PackageRegistry, serving_packages
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

TOKEN = "t0ken-of-the-registry"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[PackageRegistry]:
    directory = tmp_path / "registry"
    directory.mkdir()
    with serving_packages(directory) as registry:
        registry.token = TOKEN
        yield registry


@pytest.fixture
def pipeline(
    tmp_path: Path, database: Database, object_store_settings: ObjectStoreSettings, registry: PackageRegistry
) -> Iterator[Pipeline]:
    network = NetworkSettings(ca_bundle=registry.authority, egress_allowed_networks=(f"{HOST}/32",))
    with open_pipeline(tmp_path / "host", Toolchain.discover(), database, object_store_settings, network) as pipeline:
        yield pipeline


def project(registry: PackageRegistry) -> dict[str, str | bytes]:
    package = {
        "name": "site",
        "version": "1.0.0",
        "dependencies": {PACKAGE: "1.0.0"},
        "scripts": {"build": f"mkdir dist && (node -p 'require(\"{PACKAGE}\")'; env) > dist/index.html"},
    }
    root = {name: package[name] for name in ("name", "version", "dependencies")}
    packages = {"": root, f"node_modules/{PACKAGE}": {"version": "1.0.0", "integrity": registry.npm_integrity}}
    lock = {"name": "site", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": packages}
    address = registry.npm_url.removeprefix("https:")
    return {
        "package.json": json.dumps(package),
        "package-lock.json": json.dumps(lock),
        ".npmrc": f"registry={registry.npm_url}\n{address}:_authToken=${{NPM_TOKEN}}\nfetch-retries=0\n",
    }


def test_a_token_reaches_the_registry_and_stays_in_no_snapshot(pipeline: Pipeline, registry: PackageRegistry) -> None:
    site = project(registry)
    with pytest.raises(StageFailure) as caught:
        pipeline.install(site)
    assert caught.value.code is FailureCode.COMMAND_FAILED
    assert "cloudify env set NPM_TOKEN --stage install" in caught.value.message
    installed = pipeline.install(site, variables={"NPM_TOKEN": TOKEN})
    with pipeline.snapshots.attach(TENANT, installed.output.dependencies) as tree:
        files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
        assert files
        assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    built = pipeline.build(installed)
    with pipeline.snapshots.attach(TENANT, built.output.output) as tree:
        page = (tree / "index.html").read_text()
    assert GREETING in page
    assert TOKEN not in page


def test_other_variables_of_an_install_are_another_install(pipeline: Pipeline, registry: PackageRegistry) -> None:
    site = project(registry)
    assert not pipeline.install(site, variables={"NPM_TOKEN": TOKEN}).is_cache_hit
    assert pipeline.install(site, variables={"NPM_TOKEN": TOKEN}).is_cache_hit
    registry.token = "another"
    assert not pipeline.install(site, variables={"NPM_TOKEN": "another"}).is_cache_hit
    assert "variable NPM_TOKEN changed" in pipeline.install_log.text
    assert "another" not in pipeline.install_log.text
