"""A cancellation ends a deployment in any stage and leaves no process of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.deployments.state import STAGES, Stage
from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, HOLD, MANY_FILES, node_site, sleep_js

pytestmark = pytest.mark.e2e

STUBBORN = """
for (const name of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(name, () => console.log("ignored " + name));
require("child_process").spawn("sh", ["-c", "trap '' TERM; while :; do sleep 1; done"], { detached: true });
"""


def cancelled(platform: Platform, deployment_id: str) -> dict:
    platform.call("POST", f"/api/deployments/{deployment_id}/cancel", status=202)
    deployment = platform.finish(deployment_id)
    assert deployment["status"] == "cancelled", deployment
    # Reported only when nothing of it is left.
    assert platform.build_processes() == []
    return deployment


def test_cancel_of_a_waiting_deployment_is_immediate(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("first", before=HOLD))
    project = platform.create_project("cancel-waiting", url, **BUILD)
    first = platform.create_deployment(project["id"])["id"]
    second = platform.create_deployment(project["id"])["id"]
    answer = platform.call("POST", f"/api/deployments/{second}/cancel", status=202)
    assert answer["status"] == "cancelled"
    assert answer["stages"] == []
    assert platform.release_and_finish(first)["status"] == "ready"
    assert platform.deployment(second)["status"] == "cancelled"


@pytest.mark.parametrize("stage", [Stage.INSTALL, Stage.BUILD])
def test_cancel_while_a_stubborn_command_runs(platform: Platform, repositories: Path, stage: Stage):
    files = node_site("never", before=STUBBORN + sleep_js(600))
    if stage is Stage.INSTALL:
        files["wait.js"] = STUBBORN + sleep_js(600)
        files["package.json"] = files["package.json"].replace(
            '"build":', '"postinstall": "node wait.js",\n    "build":'
        )
    project = platform.create_project(f"cancel-{stage.value}", make_repository(repositories / "site", files), **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_status(deployment_id, STAGES[stage].status.value)
    wait_for(platform.build_processes, what="the command runs")
    deployment = cancelled(platform, deployment_id)
    assert deployment["stages"][-1]["status"] == "cancelled"
    assert platform.get_site(f"cancel-{stage.value}").status_code == 404


@pytest.mark.parametrize("stage", [Stage.CLONE, Stage.UPLOAD, Stage.DEPLOY])
def test_cancel_in_a_quick_stage(platform: Platform, repositories: Path, stage: Stage):
    """Too quick to be sure to hit: it ends as cancelled, or the client is told that it had ended before."""
    after = "" if stage is Stage.CLONE else MANY_FILES
    url = make_repository(repositories / "site", node_site(f"quick {stage.value}", after=after))
    project = platform.create_project(f"cancel-{stage.value}", url, **BUILD)
    queue = platform.queue()
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_stage(deployment_id, stage)
    response = platform.client.post(f"/api/deployments/{deployment_id}/cancel")
    deployment = platform.finish(deployment_id)
    if response.status_code == 409:
        assert deployment["status"] == "ready"
        assert response.json()["error"]["code"] == "ALREADY_FINISHED"
    else:
        assert response.status_code == 202
        assert deployment["status"] == "cancelled"  # what was accepted holds
    assert platform.build_processes() == []
    with platform.database() as database:
        tenant_id = database.fetch_value(
            str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", {"id": deployment_id}
        )
    assert tenant_id is not None
    wait_for(lambda: deployment_id not in queue.running_set(tenant_id), what="the slot is free")


def test_cancel_twice_is_a_no_op_and_after_the_end_a_conflict(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("done", before=sleep_js(600)))
    project = platform.create_project("cancel-twice", url, **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_status(deployment_id, "building")
    cancelled(platform, deployment_id)
    platform.call("POST", f"/api/deployments/{deployment_id}/cancel", status=202)
    ready = platform.deploy("cancel-late", make_repository(repositories / "other", node_site("late")), **BUILD)
    response = platform.client.post(f"/api/deployments/{ready['id']}/cancel")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "ALREADY_FINISHED")
