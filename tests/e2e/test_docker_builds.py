"""The platform with builds in Docker containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.docker_engine import SECONDS, DockerEngine
from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_site, sleep_js

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(SECONDS)]

# Of the registry's is-number 7.0.0, which computes what the page shows.
_DIGEST = "sha512-41Cifkg6e8TylSpdtTpeLVMqvSBEVzTttHvERD741+pnZ8ANv0004MRL43QKPDlK9cGvNp6NZWZUBlbGXYxxng=="
_PACKAGE = {
    "name": "numbers",
    "version": "1.0.0",
    "private": True,
    "scripts": {"build": "node build.js"},
    "dependencies": {"is-number": "7.0.0"},
}
_LOCK = {
    "name": "numbers",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {
        "": {"name": "numbers", "version": "1.0.0", "dependencies": {"is-number": "7.0.0"}},
        "node_modules/is-number": {
            "version": "7.0.0",
            "integrity": _DIGEST,
            "engines": {"node": ">=0.12.0"},
        },
    },
}
_SCRIPT = """
const fs = require("fs"), isNumber = require("is-number");
fs.mkdirSync("dist", { recursive: true });
fs.writeFileSync("dist/index.html", `<h1>${[1, "2", "x"].map(isNumber)} uid ${process.getuid()}</h1>`);
"""


@pytest.fixture
def daemon(docker_engine: DockerEngine) -> Iterator[docker.APIClient]:
    with docker_engine.client() as client:
        yield client


def running(client: docker.APIClient, deployment_id: str) -> list[dict[str, Any]]:
    return client.containers(all=True, filters={"label": f"io.cloudify.deployment={deployment_id}"})


def test_an_npm_project_is_installed_built_and_served(
    docker_platform: Platform, daemon: docker.APIClient, repositories: Path
) -> None:
    files = {"package.json": json.dumps(_PACKAGE), "package-lock.json": json.dumps(_LOCK), "build.js": _SCRIPT}
    url = make_repository(repositories / "site", files)
    project = docker_platform.create_project("docker-npm", url, outputDirectory="dist")
    first = docker_platform.finish(docker_platform.create_deployment(project["id"])["id"])
    assert first["status"] == "ready", (first["error"], docker_platform.log_text(first["id"]))
    assert docker_platform.get_site("docker-npm").text == "<h1>true,true,false uid 10001</h1>"
    assert running(daemon, first["id"]) == []
    again = docker_platform.finish(docker_platform.create_deployment(project["id"])["id"])
    assert again["status"] == "ready", again["error"]
    assert {"install", "build"} <= {run["stage"] for run in again["stages"] if run["isCacheHit"]}


def test_a_cancelled_build_has_no_container(
    docker_platform: Platform, daemon: docker.APIClient, repositories: Path
) -> None:
    url = make_repository(repositories / "site", node_site("never", before=sleep_js(3600)))
    project = docker_platform.create_project("docker-cancel", url, **BUILD)
    deployment_id = docker_platform.create_deployment(project["id"])["id"]
    docker_platform.wait_status(deployment_id, "building")
    wait_for(lambda: running(daemon, deployment_id), what="the container is there")
    docker_platform.call("POST", f"/api/deployments/{deployment_id}/cancel", status=202)
    assert docker_platform.finish(deployment_id)["status"] == "cancelled"
    assert running(daemon, deployment_id) == []


def test_a_worker_killed_in_mid_build_is_followed_by_one_that_builds(
    docker_platform: Platform, daemon: docker.APIClient, repositories: Path
) -> None:
    url = make_repository(repositories / "site", node_site("second try", before=sleep_js(10)))
    project = docker_platform.create_project("docker-crash", url, **BUILD)
    deployment_id = docker_platform.create_deployment(project["id"])["id"]
    [former] = wait_for(
        lambda: [found for found in running(daemon, deployment_id) if found["Labels"]["io.cloudify.stage"] == "build"],
        what="the build's container is there",
    )
    assert int(former["Labels"]["io.cloudify.fence"]) > 0
    docker_platform.kill("worker-build")
    assert docker_platform.finish(deployment_id)["status"] == "ready"
    assert "second try" in docker_platform.get_site("docker-crash").text
    with pytest.raises(docker.errors.NotFound):
        daemon.inspect_container(former["Id"])
    assert running(daemon, deployment_id) == []
