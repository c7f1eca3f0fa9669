"""Repositories made to hurt, and losses at the worst moment: each ends clearly and leaves the platform whole."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.deployments.jobs import stage_job_id
from shared.deployments.state import Stage
from shared.settings import load_settings
from shared.storage.keys import snapshot_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.repositories import git, make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_project, node_site, sleep_js

pytestmark = pytest.mark.e2e

DEEP = """
const fs = require("fs");
for (let depth = 0; depth < 3000; depth++) { fs.mkdirSync("d"); process.chdir("d"); }
"""

# Long enough for the disk to be measured.
LINGER = sleep_js(600)


def test_a_build_that_nests_directories_without_end_leaves_nothing_behind(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_project(DEEP + LINGER))
    deployment = platform.deploy("hostile-deep", url, **BUILD)
    assert (deployment["status"], deployment["error"]["code"]) == ("failed", "DISK_FULL")
    assert "nested" in deployment["error"]["message"]
    assert [run["attempt"] for run in deployment["stages"]] == [1] * 3
    wait_for(lambda: not (platform.home / "work" / deployment["id"]).exists(), what="its files are gone")


def test_invalid_configuration(platform: Platform, repositories: Path):
    package = json.dumps({"scripts": ["no"], "engines": {"node": "\0\ud800"}, "packageManager": 7})
    files: dict[str, str | bytes] = {"index.html": "<h1>whole</h1>", "package.json": package, ".nvmrc/x": ""}
    files |= {"requirements.txt/x": "", ".python-version": b"\0\xff"}
    deployment = platform.deploy("hostile-files", make_repository(repositories / "site", files))
    assert deployment["status"] == "ready", deployment["error"]
    files = {"index.html": "<h1>whole</h1>", "package.json/x": ""}
    deployment = platform.deploy("hostile-folder", make_repository(repositories / "other", files))
    assert deployment["status"] == "ready", deployment["error"]


def test_a_commit_message_that_no_database_takes(platform: Platform, repositories: Path):
    site = repositories / "site"
    url = make_repository(site, {"index.html": "<h1>x</h1>"})
    head = f"tree {git(site, 'rev-parse', 'HEAD^{tree}')}\n"
    for role in ("author", "committer"):
        head += f"{role} A <a@example.invalid> 1700000000 +0000\n"
    message = b"first \x1b[31m\xff\xfe\nevent: end\0" + b"x" * 1_000_000
    made = subprocess.run(
        ["git", "-C", site, "hash-object", "-t", "commit", "-w", "--stdin", "--literally"],
        input=head.encode() + b"\n" + message,
        capture_output=True,
        check=True,
    )
    git(site, "update-ref", "refs/heads/main", made.stdout.decode().strip())
    deployment = platform.deploy("hostile-message", url)
    assert deployment["status"] == "ready", deployment["error"]
    assert deployment["commitMessage"].startswith("first [31m")
    assert len(deployment["commitMessage"]) <= 1000


def test_a_lost_snapshot_is_built_again(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("built twice"))
    project = platform.create_project("hostile-loss", url, **BUILD)
    queue = platform.queue()
    queue.pause("upload")
    try:
        deployment_id = platform.create_deployment(project["id"])["id"]
        job = stage_job_id(deployment_id, Stage.UPLOAD)
        wait_for(lambda: queue.find(job) == "ready", what="the build is done")
        with platform.database() as database:
            parameters = {"id": deployment_id}
            tenant_id = database.fetch_value(str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", parameters)
            digest = database.fetch_value(
                str,
                "SELECT output ->> 'output' FROM stage_runs WHERE deployment_id = %(id)s AND stage = 'build'",
                parameters,
            )
        assert tenant_id is not None
        assert digest is not None
        store = S3ArtifactStore(load_settings(platform.child_settings()).object_store)
        store.delete(snapshot_key(tenant_id, digest))
        shutil.rmtree(platform.home / "cache" / "trees" / tenant_id / digest)
    finally:
        queue.resume("upload")
    deployment = platform.finish(deployment_id)
    assert deployment["status"] == "ready", deployment["error"]
    builds = [run["status"] for run in deployment["stages"] if run["stage"] == "build"]
    assert builds == ["retrying", "succeeded"]
    assert "built twice" in platform.get_site("hostile-loss").text


def test_cancelled_means_that_nothing_runs_even_when_the_queue_forgot_the_build(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("never", before=sleep_js(600)))
    project = platform.create_project("hostile-cancel", url, **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_status(deployment_id, "building")
    wait_for(platform.build_processes, what="the command runs")
    platform.redis.flushall()
    platform.call("POST", f"/api/deployments/{deployment_id}/cancel", status=202)
    assert platform.finish(deployment_id)["status"] == "cancelled"
    assert platform.build_processes() == []
