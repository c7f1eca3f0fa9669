"""Hugo, Dart Sass, Go and Deno from the registries' packages, next to Node's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from shared.db.database import Database
from shared.errors import FailureCode, StageFailure
from shared.settings import ObjectStoreSettings
from tests.support.repositories import SITES
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

HOME_PAGE = """<h1>{{ hugo.Version }}</h1>
{{ with resources.Get "main.scss" | css.Sass (dict "transpiler" "dartsass") }}
<style>{{ .Content | safeCSS }}</style>
{{ end }}
"""
WRITES_VERSIONS = """
Deno.mkdirSync("dist");
Deno.writeTextFileSync("dist/index.html", `deno ${Deno.version.deno}`);
"""


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory,
    module_database: Database,
    module_object_store_settings: ObjectStoreSettings,
) -> Iterator[Pipeline]:
    directory = tmp_path_factory.mktemp("tools")
    with open_pipeline(directory, Toolchain.discover(), module_database, module_object_store_settings) as pipeline:
        yield pipeline


def test_hugo_in_a_chosen_version_with_dart_sass_and_packages_of_node(pipeline: Pipeline) -> None:
    site: dict[str, str | bytes] = {
        "hugo.toml": "title = 'a'\ndisableKinds = ['taxonomy', 'term', 'RSS', 'sitemap']\n",
        "layouts/index.html": HOME_PAGE,
        "assets/main.scss": "$c: teal; nav { a { color: $c } }",
        "package.json": (SITES / "pnpm" / "package.json").read_bytes(),
        "pnpm-lock.yaml": (SITES / "pnpm" / "pnpm-lock.yaml").read_bytes(),
    }
    installed = pipeline.install(site, variables={"HUGO_VERSION": "extended_0.152.2"})
    assert "Hugo 0.152.2: the variable HUGO_VERSION." in pipeline.log.text
    assert {tool.name for tool in installed.output.tools} == {"pnpm", "hugo", "sass"}
    with pipeline.snapshots.attach(TENANT, installed.output.dependencies) as layer:
        assert (layer / "node_modules/is-odd/package.json").is_file()
    built = pipeline.build(installed)
    with pipeline.snapshots.attach(TENANT, built.output.output) as output:
        page = (output / "index.html").read_text()
    assert "<h1>0.152.2</h1>" in page
    assert "nav a{color:teal}" in page


def test_modules_of_hugo_are_vendored_while_installing(pipeline: Pipeline) -> None:
    site: dict[str, str | bytes] = {
        "hugo.toml": (
            "title = 'a'\ndisableKinds = ['taxonomy', 'term', 'RSS', 'sitemap']\n"
            "[[module.imports]]\npath = 'example.invalid/theme'\n"
        ),
        # From the repository itself, so that no host has to be reached; Go resolves it all the same.
        "go.mod": (
            "module example.invalid/site\n\ngo 1.21\n\nrequire example.invalid/theme v0.0.0\n\n"
            "replace example.invalid/theme => ./theme\n"
        ),
        "theme/go.mod": "module example.invalid/theme\n\ngo 1.21\n",
        "theme/layouts/index.html": "made by the theme",
    }
    installed = pipeline.install(site)
    assert "$ hugo mod vendor" in pipeline.log.lines
    assert {tool.name for tool in installed.output.tools} == {"hugo", "go", "sass"}
    built = pipeline.build(installed)
    with pipeline.snapshots.attach(TENANT, built.output.output) as output:
        assert (output / "index.html").read_text() == "made by the theme"


def test_deno_runs_a_build_script(pipeline: Pipeline) -> None:
    package = {"name": "a", "scripts": {"build": "deno run --allow-write build.ts"}}
    site: dict[str, str | bytes] = {"package.json": json.dumps(package), "build.ts": WRITES_VERSIONS}
    installed = pipeline.install(site, variables={"DENO_VERSION": "2.9.8"})
    built = pipeline.build(installed)
    with pipeline.snapshots.attach(TENANT, built.output.output) as output:
        assert (output / "index.html").read_text() == "deno 2.9.8"


def test_a_version_of_hugo_that_does_not_exist_names_the_variable(pipeline: Pipeline) -> None:
    with pytest.raises(StageFailure, match="cloudify env set HUGO_VERSION") as raised:
        pipeline.install({"hugo.toml": ""}, variables={"HUGO_VERSION": "0.999.9"})
    assert raised.value.code == FailureCode.CONFIGURATION_INVALID
