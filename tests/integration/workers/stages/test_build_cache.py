"""What tools keep between builds: found by the next build of the project, and by no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.db.database import Database
from shared.errors import StageFailure
from shared.settings import ObjectStoreSettings
from shared.storage.keys import snapshot_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain
from workers.filesystem.trees import remove_tree

pytestmark = pytest.mark.integration

# Counts its runs in the directory where webpack, Babel and others keep theirs, and tells the count in the page.
BUILD = """
const fs = require('fs'), cache = 'node_modules/.cache';
fs.mkdirSync(cache + '/deep', {recursive: true});
const read = (name) => fs.existsSync(name) ? fs.readFileSync(name, 'utf8') : '';
const runs = Number(read(cache + '/deep/runs')) + 1;
fs.writeFileSync(cache + '/deep/runs', String(runs));
fs.writeFileSync(cache + '/run-' + runs, '');
fs.rmSync(cache + '/run-' + (runs - 2), {force: true});
fs.mkdirSync('dist', {recursive: true});
fs.writeFileSync('dist/index.html', runs + ':' + fs.readdirSync(cache).sort().join() + ' ' + '%s');
if ('%s' === 'fails') process.exit(3);
"""


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return Toolchain.discover()


@pytest.fixture
def pipeline(
    tmp_path: Path, toolchain: Toolchain, database: Database, object_store_settings: ObjectStoreSettings
) -> Iterator[Pipeline]:
    with open_pipeline(tmp_path, toolchain, database, object_store_settings) as pipeline:
        yield pipeline


def site(word: str, **more: str) -> dict[str, str | bytes]:
    package = {"name": "site", "version": "1.0.0", "scripts": {"build": "node build.js"}}
    return {"package.json": json.dumps(package), "build.js": BUILD.replace("%s", word), **more}


def page(pipeline: Pipeline, word: str, variables: dict[str, str] | None = None, **settings: Any) -> str:
    text = pipeline.run(site(word), variables, **settings)["index.html"]
    pipeline.build_cache.settle()
    return text


def kept(database: Database) -> list[str]:
    return database.fetch_values(str, "SELECT digest FROM snapshots WHERE kind = 'build files' ORDER BY scope")


def test_a_build_finds_what_the_one_before_it_left(
    pipeline: Pipeline, database: Database, object_store_settings: ObjectStoreSettings
) -> None:
    store = S3ArtifactStore(object_store_settings)
    assert page(pipeline, "a") == "1:deep,run-1 a"
    assert "No cached build files: nothing cached yet." in pipeline.log.lines
    [first] = kept(database)
    assert page(pipeline, "b") == "2:deep,run-1,run-2 b"
    assert any(line.startswith(f"Cached build files used ({first[:12]})") for line in pipeline.log.lines)
    # What the build deleted stays away, and only the latest is kept in the store.
    assert page(pipeline, "c") == "3:deep,run-2,run-3 c"
    [last] = kept(database)
    assert not store.exists(snapshot_key(TENANT, first))
    assert store.exists(snapshot_key(TENANT, last))


def test_only_builds_with_the_same_variables_share_files(pipeline: Pipeline, database: Database) -> None:
    assert page(pipeline, "a", {"TOKEN": "of-production"}).startswith("1:")
    assert page(pipeline, "b", {"TOKEN": "of-previews"}).startswith("1:")
    assert page(pipeline, "c", {"TOKEN": "of-production"}).startswith("2:")
    assert "of-production" not in "".join(
        database.fetch_values(str, "SELECT components::text || output::text FROM snapshots")
    )


def test_other_packages_start_from_nothing(pipeline: Pipeline) -> None:
    """Not every tool notices that a plugin of its own has changed."""

    def page_with(word: str, lockfile: str) -> str:
        text = pipeline.run(site(word, **{"yarn.lock": f"# {lockfile}"}))["index.html"]
        pipeline.build_cache.settle()
        return text.partition(":")[0]

    assert [page_with("a", "one"), page_with("b", "two"), page_with("c", "one")] == ["1", "1", "2"]


def test_a_preview_starts_from_production_and_keeps_its_own(pipeline: Pipeline) -> None:
    assert page(pipeline, "a").startswith("1:")
    assert page(pipeline, "b", is_preview=True).startswith("2:")
    assert page(pipeline, "c", is_preview=True).startswith("3:")
    assert page(pipeline, "d").startswith("2:")


def test_a_clean_deployment_starts_from_nothing_and_the_next_from_it(pipeline: Pipeline) -> None:
    page(pipeline, "a")
    assert page(pipeline, "b", clean=True) == "1:deep,run-1 b"
    assert page(pipeline, "c") == "2:deep,run-1,run-2 c"


def test_a_variable_disables_the_cache(pipeline: Pipeline, database: Database) -> None:
    for word in "ab":
        assert page(pipeline, word, {"CLOUDIFY_BUILD_CACHE": "off"}).startswith("1:")
    assert kept(database) == []


def test_a_failed_build_leaves_nothing_and_says_that_it_had_a_start(pipeline: Pipeline) -> None:
    page(pipeline, "a")
    with pytest.raises(StageFailure, match="a clean deployment doesn't"):
        page(pipeline, "fails")
    assert page(pipeline, "b").startswith("2:")


def test_what_is_committed_is_what_the_build_sees(pipeline: Pipeline, database: Database) -> None:
    for word in "ab":
        built = pipeline.run(site(word, **{"node_modules/.cache/deep/runs": "40"}))
        pipeline.build_cache.settle()
        assert built["index.html"].startswith("41:")
    assert kept(database) == []


def test_a_build_works_without_files_that_the_store_has_lost(
    pipeline: Pipeline, database: Database, object_store_settings: ObjectStoreSettings
) -> None:
    page(pipeline, "a")
    [digest] = kept(database)
    pipeline.snapshots.delete(TENANT, digest)
    assert page(pipeline, "b").startswith("1:")
    assert page(pipeline, "c").startswith("2:")
    # Damaged, and this host has no copy.
    [digest] = kept(database)
    pipeline.snapshots.delete(TENANT, digest)
    S3ArtifactStore(object_store_settings).put_bytes(snapshot_key(TENANT, digest), b"no tarball")
    assert page(pipeline, "d").startswith("1:")
    assert any(line.startswith("They are not available") for line in pipeline.log.lines)
    assert page(pipeline, "e").startswith("2:")


def test_a_build_works_without_files_that_this_host_has_no_room_for(
    pipeline: Pipeline, database: Database, tmp_path: Path
) -> None:
    page(pipeline, "a")
    page(pipeline, "b")
    [digest] = kept(database)
    tree = tmp_path / "cache" / "trees" / TENANT / digest
    remove_tree(tree)
    tree.write_text("in the way")
    assert page(pipeline, "c").startswith("1:")
    assert "They are not available at the moment; the command runs without them." in pipeline.log.lines
    assert page(pipeline, "d").startswith("2:")
