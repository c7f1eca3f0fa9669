"""Rollback is a pointer swap; a limit of the plan is never exceeded."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.support.repositories import commit, make_repository
from tests.support.running_platform import FINISHED, Platform, wait_for
from tests.support.sites import BUILD, HOLD, node_site, sleep_js

pytestmark = pytest.mark.e2e


def test_rollback_and_the_deployments_after_it(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("version one"))
    project = platform.create_project("rolled", url, **BUILD)
    first = platform.finish(platform.create_deployment(project["id"])["id"])
    commit(repositories / "site", node_site("version two"))
    second = platform.finish(platform.create_deployment(project["id"])["id"])
    assert "version two" in platform.get_site("rolled").text
    assert platform.deployment(second["id"])["isActive"]
    assert not platform.deployment(first["id"])["isActive"]

    platform.call("POST", f"/api/deployments/{first['id']}/rollback", status=202)
    wait_for(lambda: "version one" in platform.get_site("rolled").text, what="the old one is served")
    wait_for(lambda: platform.deployment(first["id"])["isActive"], what="it is the active one")
    assert not platform.deployment(second["id"])["isActive"]
    assert platform.call("GET", f"/api/projects/{project['id']}")["isPinned"]
    # Stages of the old deployment didn't run again.
    assert len(platform.deployment(first["id"])["stages"]) == 5

    commit(repositories / "site", node_site("version three"))
    third = platform.finish(platform.create_deployment(project["id"])["id"])
    assert third["isActive"]
    assert "version three" in platform.get_site("rolled").text


def test_rollback_to_a_deployment_that_was_never_ready_is_refused(platform: Platform, repositories: Path):
    failed = platform.deploy("rolled-bad", make_repository(repositories / "site", {"notes.txt": "x"}))
    response = platform.client.post(f"/api/deployments/{failed['id']}/rollback")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "NOT_READY")


def test_an_older_deployment_that_ends_late_does_not_replace_a_newer_one(platform: Platform, repositories: Path):
    # Two at once need a plan that allows it; the older one builds until the newer one is served.
    url = make_repository(repositories / "site", node_site("old", before=HOLD))
    project = platform.create_project("monotonic", url, **BUILD)
    with platform.plan("PRO"):
        older = platform.create_deployment(project["id"])["id"]
        platform.wait_held(older)
        commit(repositories / "site", node_site("new"))
        newer = platform.finish(platform.create_deployment(project["id"])["id"])
        assert platform.deployment(older)["status"] == "building"
        assert platform.release_and_finish(older)["status"] == "ready"
    assert platform.deployment(newer["id"])["isActive"]
    assert not platform.deployment(older)["isActive"]
    assert "new" in platform.get_site("monotonic").text


def test_ten_deployments_at_once_on_a_free_account_build_one_at_a_time(platform: Platform, repositories: Path):
    """Sampled from the running set and from the processes."""
    projects = []
    for number in range(10):
        url = make_repository(repositories / str(number), node_site(f"site {number}", before=sleep_js(1)))
        projects.append(platform.create_project(f"ten-{number}", url, **BUILD))
    with platform.database() as database:
        tenant_id = database.fetch_value(
            str, "SELECT tenant_id FROM projects WHERE id = %(id)s", {"id": projects[0]["id"]}
        )
    assert tenant_id is not None
    queue = platform.queue()
    over = threading.Event()
    holders: list[int] = []
    sandboxes: list[int] = []

    def sample() -> None:
        while not over.is_set():
            holders.append(len(queue.running_set(tenant_id)))
            names = {process.pid for process in platform.build_processes() if is_build(process)}
            sandboxes.append(len(names))
            time.sleep(0.05)  # the sampling interval; a build takes more than a second

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        ids = [platform.create_deployment(project["id"])["id"] for project in projects]
        wait_for(
            lambda: all(platform.deployment(one)["status"] in FINISHED for one in ids), seconds=600, what="all end",
            every=0.5,
        )  # fmt: skip
    finally:
        over.set()
        sampler.join()
    assert [platform.deployment(one)["status"] for one in ids] == ["ready"] * 10
    assert max(holders) == 1
    assert max(sandboxes) == 1
    for number in range(10):
        assert f"site {number}" in platform.get_site(f"ten-{number}").text


def is_build(process) -> bool:
    """The `node build.js` of a build, once each."""
    import psutil

    try:
        return process.cmdline()[-2:] == ["node", "build.js"]
    except psutil.Error:
        return False
