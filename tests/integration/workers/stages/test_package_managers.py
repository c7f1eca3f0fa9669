"""Every package manager installs from the registry in the real sandbox, and the build uses what it installed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from shared.db.database import Database
from shared.deployments.state import Stage
from shared.errors import FailureCode, StageFailure
from shared.settings import ObjectStoreSettings
from tests.support.lockfiles import index_url
from tests.support.repositories import SITES
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain
from workers.pipeline.stage import StageInputs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return Toolchain.discover()


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory,
    toolchain: Toolchain,
    module_database: Database,
    module_object_store_settings: ObjectStoreSettings,
) -> Iterator[Pipeline]:
    """One for all, so that each tool is fetched once."""
    directory = tmp_path_factory.mktemp("managers")
    with open_pipeline(directory, toolchain, module_database, module_object_store_settings) as pipeline:
        yield pipeline


def files_of(name: str) -> dict[str, str | bytes]:
    site = SITES / name
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def declaring(manager: str) -> str:
    package = (SITES / "pnpm" / "package.json").read_text()
    return package.replace('"private": true,', f'"private": true, "packageManager": "{manager}",')


@pytest.mark.parametrize(
    ("site", "agent"),
    [("pnpm", "pnpm/10.34.8"), ("yarn", "yarn/1.22.22"), ("berry", "yarn/4.18.1"), ("bun", "bun/1.4.5")],
)
def test_a_node_package_manager(pipeline: Pipeline, site: str, agent: str) -> None:
    page = pipeline.run(site)["index.html"]
    assert "<h1>odd</h1>" in page
    assert f"<p>{agent} on node v24." in page
    # Another commit with the same lockfile finds the dependencies, and the tool, again.
    again = pipeline.install({**files_of(site), "README.md": "Other"})
    assert again.is_cache_hit, pipeline.log.text
    assert "Fetching" not in pipeline.log.text


def test_a_declared_version_is_the_one_that_is_used(pipeline: Pipeline) -> None:
    site = files_of("pnpm")
    package = str(site["package.json"], "utf-8").replace(
        '"private": true,', '"private": true, "packageManager": "pnpm@9.15.9",'
    )
    page = pipeline.run({**site, "package.json": package})["index.html"]
    assert "<p>pnpm/9.15.9 on node" in page


@pytest.mark.parametrize("version", ["10.9.0", "10.9.0+sha512.abc"])
def test_a_declared_npm_is_the_one_that_is_used(pipeline: Pipeline, version: str) -> None:
    site = {**files_of("pnpm"), "package.json": declaring(f"npm@{version}")}
    page = pipeline.run(site)["index.html"]
    assert "<p>npm/10.9.0 on node v24." in page


def test_an_unavailable_npm_is_reported(pipeline: Pipeline) -> None:
    pipeline.install({**files_of("pnpm"), "package.json": declaring("npm@^99.0.0")})
    assert "The project asks for npm ^99.0.0; " in pipeline.log.text


def test_a_version_that_does_not_exist_is_the_users_failure(pipeline: Pipeline) -> None:
    site = files_of("pnpm")
    package = str(site["package.json"], "utf-8").replace(
        '"private": true,', '"private": true, "packageManager": "pnpm@9.999.9",'
    )
    with pytest.raises(StageFailure) as raised:
        pipeline.run({**site, "package.json": package})
    assert raised.value.code == FailureCode.CONFIGURATION_INVALID
    assert "pnpm 9.999.9" in raised.value.message


def test_a_lockfile_of_pnpm_that_does_not_match(pipeline: Pipeline) -> None:
    site = files_of("pnpm")
    package = str(site["package.json"], "utf-8").replace('"is-odd": "3.0.1"', '"is-odd": "3.0.0"')
    with pytest.raises(StageFailure) as raised:
        pipeline.install({**site, "package.json": package})
    assert raised.value.code == FailureCode.LOCKFILE_MISMATCH
    assert "`pnpm install`" in raised.value.message


def test_another_line_of_node(pipeline: Pipeline) -> None:
    page = pipeline.run({**files_of("pnpm"), ".nvmrc": "22\n"})["index.html"]
    assert "on node v22." in page


def test_a_tool_that_was_lost_is_fetched_again(pipeline: Pipeline) -> None:
    installed = pipeline.install("pnpm")
    [tool] = installed.output.tools
    assert StageInputs({Stage.INSTALL: msgspec.to_builtins(installed.output)}).origin_of(tool.digest) is Stage.INSTALL
    pipeline.forget_tool(tool.digest)
    again = pipeline.install("pnpm")
    assert "Fetching pnpm" in pipeline.log.text
    built = pipeline.build(again)
    assert built.output.output


@pytest.mark.parametrize(("manager", "lock", "name"), [
    ("poetry", "poetry lock", "poetry.lock"), ("pipenv", "pipenv lock", "Pipfile.lock"),
])  # fmt: skip
def test_a_python_package_manager(pipeline: Pipeline, manager: str, lock: str, name: str) -> None:
    site = files_of(manager)
    index = index_url()
    if manager == "poetry":
        source = f'\n[[tool.poetry.source]]\nname = "index"\nurl = "{index}"\npriority = "primary"\n'
        site["pyproject.toml"] = str(site["pyproject.toml"], "utf-8") + source
    else:
        source = f'[[source]]\nname = "index"\nurl = "{index}"\nverify_ssl = true\n\n'
        site["Pipfile"] = source + str(site["Pipfile"], "utf-8")
    settings = {"build_command": "python make_site.py", "output_directory": "dist"}
    # A lockfile names its registry, so it is made here.
    locked = pipeline.install(site, install_command=lock, **settings)
    with pipeline.snapshots.attach(TENANT, locked.output.dependencies) as layer:
        site[name] = (layer / name).read_bytes()
    page = pipeline.run(site, **settings)["index.html"]
    assert "<h1>matched</h1><p>/workspace/.venv</p>" in page
    assert f"Package manager {manager}" in pipeline.install_log.text


def test_a_variable_of_the_project_chooses_the_manager(pipeline: Pipeline) -> None:
    site = files_of("pnpm")
    installed = pipeline.install(site, variables={"CLOUDIFY_PACKAGE_MANAGER": "npm"})
    assert installed.output.tools == []
    assert "$ npm install" in pipeline.install_log.text
    page = pipeline.build(installed)
    assert page.output.output
    with pytest.raises(StageFailure) as raised:
        pipeline.install(site, variables={"CLOUDIFY_PACKAGE_MANAGER": "cargo"})
    assert raised.value.code == FailureCode.CONFIGURATION_INVALID


def test_the_deployments_own_settings_may_name_a_manager(pipeline: Pipeline) -> None:
    site = files_of("pnpm")
    del site["pnpm-lock.yaml"]
    installed = pipeline.install(site, install_command="corepack enable && pnpm install --no-frozen-lockfile")
    assert [tool.name for tool in installed.output.tools] == ["pnpm"]
