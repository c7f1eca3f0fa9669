"""What package managers downloaded is there for the project's next install, and for nobody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.db.database import Database
from shared.errors import StageFailure
from shared.settings import ObjectStoreSettings
from tests.support.repositories import SITES
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain
from workers.stages.install.downloads import KIND

pytestmark = pytest.mark.integration

# A registry that can't be reached, for managers that have no option for it.
NOWHERE = " ".join(f"{name}=http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"))
OFFLINE = {
    "pnpm": "pnpm install --frozen-lockfile --offline",
    "yarn": "yarn install --frozen-lockfile --offline",
    "berry": "YARN_ENABLE_NETWORK=false yarn install --immutable",
    "bun": f"{NOWHERE} bun install --frozen-lockfile",
}
PYTHON: dict[str, str | bytes] = {"mkdocs.yml": "site_name: a\n", "requirements.txt": "pathspec==1.1.1\n"}


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory,
    module_database: Database,
    module_object_store_settings: ObjectStoreSettings,
) -> Iterator[Pipeline]:
    directory = tmp_path_factory.mktemp("downloads")
    with open_pipeline(directory, Toolchain.discover(), module_database, module_object_store_settings) as pipeline:
        yield pipeline


def files_of(name: str) -> dict[str, str | bytes]:
    site = SITES / name
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def install(pipeline: Pipeline, site: dict[str, str | bytes], command: str | None = None, **settings: object) -> str:
    """The digest of the dependencies."""
    installed = pipeline.install(site, install_command=command, **settings)
    assert not installed.is_cache_hit
    pipeline.downloads.settle()
    assert installed.output.dependencies is not None
    return installed.output.dependencies


@pytest.mark.parametrize("manager", OFFLINE)
def test_a_node_package_manager_finds_its_downloads(pipeline: Pipeline, manager: str) -> None:
    site = files_of(manager)
    with pytest.raises(StageFailure):
        install(pipeline, site, OFFLINE[manager])
    install(pipeline, site)
    install(pipeline, site, OFFLINE[manager])
    assert "Cached downloads used" in pipeline.log.text
    with pytest.raises(StageFailure):
        install(pipeline, site, OFFLINE[manager], project_id="proj_2")


def test_npm_keeps_only_what_is_found_by_its_digest(pipeline: Pipeline) -> None:
    site = files_of("pnpm")
    del site["pnpm-lock.yaml"]
    first = install(pipeline, site)
    with pipeline.snapshots.attach(TENANT, first) as layer:
        site["package-lock.json"] = (layer / "package-lock.json").read_bytes()
    install(pipeline, site)
    install(pipeline, site, "npm ci --offline")
    digest = pipeline.digests(KIND)[0]
    with pipeline.snapshots.attach(TENANT, digest) as tree:
        assert {path.relative_to(tree).as_posix() for path in tree.glob("*/*/*")} == {"npm/content-v2/sha512"}


def test_previews_start_from_production_and_production_not_from_previews(pipeline: Pipeline) -> None:
    offline = "uv pip install --offline -r requirements.txt"
    install(pipeline, PYTHON, is_preview=True)
    with pytest.raises(StageFailure):
        install(pipeline, PYTHON, offline)
    # Their own come first.
    install(pipeline, PYTHON, offline, is_preview=True)
    site = {**PYTHON, "requirements.txt": "pathspec==1.1.0\n"}
    install(pipeline, site, project_id="proj_3")
    install(pipeline, site, offline, project_id="proj_3", is_preview=True)
    # Who hasn't the variables of the install hasn't what they gave access to.
    with pytest.raises(StageFailure):
        install(pipeline, site, offline, project_id="proj_3", is_preview=True, variables={"TOKEN": "x"})


def test_downloads_can_be_switched_off_and_are_none_for_a_clean_deployment(pipeline: Pipeline) -> None:
    site = {**PYTHON, "requirements.txt": "pathspec==1.0.4\n"}
    offline = "uv pip install --offline -r requirements.txt"
    install(pipeline, site, project_id="proj_4")
    with pytest.raises(StageFailure):
        install(pipeline, site, offline, project_id="proj_4", variables={"CLOUDIFY_BUILD_CACHE": "off"})
    with pytest.raises(StageFailure):
        install(pipeline, site, offline, project_id="proj_4", clean=True)
    install(pipeline, site, offline, project_id="proj_4")


def test_the_least_recently_used_downloads_go(pipeline: Pipeline) -> None:
    for number in range(8):
        install(pipeline, PYTHON, project_id="proj_5", variables={"NUMBER": str(number)})
    assert len(pipeline.digests(KIND, scope="proj_5/production")) == 6
