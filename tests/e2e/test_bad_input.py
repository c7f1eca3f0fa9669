"""Bad input ends in a clear failure: the right code, a message to act on, a log that ends, and nothing left running."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_project, node_site

pytestmark = pytest.mark.e2e


def expect_failure(platform: Platform, deployment: dict, code: str, stage: str, *words: str) -> str:
    """Checks the failure as a client sees it; returns the log's text."""
    assert deployment["status"] == "failed", deployment
    error = deployment["error"]
    assert (error["code"], error["stage"]) == (code, stage), error
    for word in words:
        assert word in error["message"], error
    text = platform.log_text(deployment["id"])
    assert error["message"] in text
    assert "Traceback" not in text
    assert deployment["url"] is None
    queue, tenant = platform.queue(), tenant_id(platform, deployment["id"])
    wait_for(lambda: not queue.running_set(tenant), what="the slot is free")
    return text


def tenant_id(platform: Platform, deployment_id: str) -> str:
    with platform.database() as database:
        tenant_id = database.fetch_value(
            str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", {"id": deployment_id}
        )
    assert tenant_id is not None
    return tenant_id


def test_a_repository_that_does_not_exist(platform: Platform, repositories: Path):
    deployment = platform.deploy("bad-missing", f"file://{repositories}/nothing")
    expect_failure(platform, deployment, "REPOSITORY_NOT_FOUND", "clone")


def test_an_empty_repository(platform: Platform, repositories: Path):
    subprocess.run(["git", "init", "-q", "-b", "main", repositories / "empty"], check=True)
    deployment = platform.deploy("bad-empty", f"file://{repositories}/empty")
    expect_failure(platform, deployment, "REPOSITORY_EMPTY", "clone", "commit")


def test_a_repository_that_needs_credentials(platform: Platform, locked_repository: str):
    deployment = platform.deploy("bad-credentials", locked_repository)
    expect_failure(platform, deployment, "REPOSITORY_AUTHENTICATION", "clone")


def test_no_such_branch(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("x"))
    deployment = platform.deploy("bad-branch", url, repositoryBranch="nowhere")
    expect_failure(platform, deployment, "BRANCH_NOT_FOUND", "clone", "nowhere")


def test_no_such_commit(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("x"))
    project = platform.create_project("bad-commit", url)
    deployment = platform.finish(platform.create_deployment(project["id"], commitSha="0" * 40)["id"])
    expect_failure(platform, deployment, "COMMIT_NOT_FOUND", "clone", "0000000")


def test_no_such_root_directory(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("x"))
    deployment = platform.deploy("bad-root", url, rootDirectory="packages/none")
    expect_failure(platform, deployment, "ROOT_DIRECTORY_NOT_FOUND", "clone", "packages/none")


def test_no_recognisable_project(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", {"notes.txt": "nothing to build"})
    deployment = platform.deploy("bad-unknown", url)
    expect_failure(platform, deployment, "PROJECT_NOT_RECOGNISED", "install")


def test_a_package_json_that_is_no_json(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", {"package.json": "{ nope", "index.js": ""})
    deployment = platform.deploy("bad-json", url)
    expect_failure(platform, deployment, "CONFIGURATION_INVALID", "install", "package.json")


def test_a_build_command_that_exits_3(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_project('console.error("the reason");process.exit(3);'))
    deployment = platform.deploy("bad-exit", url, **BUILD)
    text = expect_failure(platform, deployment, "COMMAND_FAILED", "build", "3")
    assert "the reason" in text


def test_an_output_directory_that_is_empty(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_project('require("fs").mkdirSync("dist");'))
    deployment = platform.deploy("bad-empty-output", url, **BUILD)
    expect_failure(platform, deployment, "OUTPUT_DIRECTORY_EMPTY", "build", "dist")


def test_a_megabyte_in_one_line_is_stored_whole(platform: Platform, repositories: Path):
    before = 'process.stdout.write("a".repeat(500000) + "MIDDLE" + "b".repeat(500000) + "\\n");'
    url = make_repository(repositories / "site", node_site("long line", before=before))
    deployment = platform.deploy("long-line", url, **BUILD)
    assert deployment["status"] == "ready", deployment["error"]
    text = "".join(line["text"] for line in platform.log(deployment["id"]) if line["stream"] == "stdout")
    assert "a" * 500_000 + "MIDDLE" + "b" * 500_000 in text


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/x.git", "javascript:alert(1)", "--upload-pack=touch /tmp/x", "https://", "not a url"],
)
def test_an_invalid_repository_url_is_refused_at_once(platform: Platform, url: str):
    response = platform.client.post("/api/projects", json={"name": "bad-url", "repositoryUrl": url})
    assert response.status_code == 422, response.text
    assert response.json()["error"]["code"] in ("VALIDATION_ERROR", "URL_FORBIDDEN")
    assert response.json()["error"]["requestId"]
