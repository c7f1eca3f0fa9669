"""The queue's administration over HTTP: who may, what is shown, what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from schemas.accounts import CreateTokenRequest
from schemas.messages import Job
from shared.queue.records import Disposition, WorkerRecord, WorkerState
from shared.routing.routers import RouterReport, RouterRepository

pytestmark = pytest.mark.integration
_requests = itertools.count()


@pytest.fixture
def administrator(platform, register) -> Any:
    account = register("root@example.com")
    with platform.backends.database.transaction() as connection:
        connection.execute("UPDATE users SET is_platform_administrator = true WHERE id = %s", [account.user_id])
    return account


def kill(platform, pool: str, *, reason: str = "ValueError: no") -> str:
    """Dead-letters the job that is next in the pool."""
    queue = platform.backends.queue
    [acquired] = queue.acquire(pool, 1, worker="w", request_id=f"r{next(_requests)}").jobs
    assert queue.finish(acquired.job.id, acquired.token, Disposition.DEAD, reason=reason)
    return acquired.job.id


def deploy(account) -> str:
    project_id = account.project()["id"]
    return account.request("POST", "/api/deployments", json={"projectId": project_id}).json()["data"]["id"]


def finish_all_as_failed(platform) -> None:
    for row in platform.services.deployments._deployments.live():
        platform.services.deployments._terminations.finish_failed(row, "PLATFORM_ERROR", None, "Given up.")


ROUTES = [
    ("GET", "/api/admin/queues"), ("GET", "/api/admin/workers"), ("GET", "/api/admin/jobs"),
    ("POST", "/api/admin/queues/clone/pause"),
    ("POST", "/api/admin/queues/clone/resume"), ("POST", "/api/admin/jobs/x:clone/retry"),
    ("POST", "/api/admin/jobs/x:clone/drop"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_administrators_of_the_platform_have_access(account, administrator, method: str, path: str) -> None:
    refused = account.request(method, path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert administrator.request(method, path).status_code in (200, 404)


def test_the_first_owner_of_a_platform_has_access(platform) -> None:
    owner = platform.services.accounts.ensure_owner("owner@localhost")
    token = platform.services.tokens.create(owner.user_id, CreateTokenRequest(name="cloudify up")).token
    headers = {"Authorization": f"Bearer {token}"}
    assert platform.client.get("/api/admin/queues", headers=headers).status_code == 200
    assert platform.client.post("/api/admin/queues/build/pause", headers=headers).status_code == 200


def test_a_token_with_another_scope_has_no_access(administrator) -> None:
    made = administrator.request("POST", "/api/auth/tokens", json={"name": "n", "scopes": ["deploy:read"]})
    assert made.status_code == 201, made.text
    headers = {"Authorization": f"Bearer {made.json()['data']['token']}"}
    assert administrator.platform.client.get("/api/admin/queues", headers=headers).status_code == 403


def test_every_pool_is_shown_with_what_it_holds(platform, account, administrator) -> None:
    deploy(account)
    platform.backends.queue.register_worker(WorkerRecord("clone", "w", 4, 1), expires_seconds=15)
    shown = {row["pool"]: row for row in administrator.request("GET", "/api/admin/queues").json()["data"]}
    assert list(shown) == ["clone", "install", "build", "upload", "deploy", "rollback", "preview-cleanup"]
    clone = shown["clone"]
    assert clone.pop("oldestAgeSeconds") >= 0
    assert clone == {
        "pool": "clone", "depth": 1, "running": 0, "delayed": 0, "dead": 0, "waitingForSlot": 0, "isPaused": False,
        "workers": 1, "threads": 4, "busyThreads": 1,
    }  # fmt: skip
    assert shown["build"]["depth"] == 0


def test_every_process_is_listed_with_its_state(platform, account, administrator) -> None:
    queue = platform.backends.queue
    paused = WorkerRecord(
        "clone", "w", 4, 1, host="m1", version="0.1", state=WorkerState.PAUSED, reason="Its clock is wrong."
    )
    for record in (paused, WorkerRecord("reconciler", "r", 4, 0, host="m2", version="0.1")):
        queue.register_worker(record, expires_seconds=60)
    report = RouterReport(
        id="router-1", machine="m3", version="0.2", url="http://m3", epoch="e", applied_number=1, snapshot_number=0,
        problem="The disk is full.", sites=3,
    )  # fmt: skip
    RouterRepository(platform.backends.database).report(report)
    shown = administrator.request("GET", "/api/admin/workers").json()["data"]
    assert all(row.pop("seenAt") for row in shown)
    assert shown == [
        {"id": "w", "pool": "clone", "host": "m1", "version": "0.1", "state": "paused",
         "reason": "Its clock is wrong.", "threads": 4, "busyThreads": 1},
        {"id": "r", "pool": "reconciler", "host": "m2", "version": "0.1", "state": "running", "reason": None,
         "threads": 4, "busyThreads": 0},
        {"id": "router-1", "pool": "router", "host": "m3", "version": "0.2", "state": "not ready",
         "reason": "The disk is full.", "threads": 0, "busyThreads": 0},
    ]  # fmt: skip


def test_a_pool_is_paused_and_resumed(platform, account, administrator) -> None:
    deployment_id = deploy(account)
    paused = administrator.request("POST", "/api/admin/queues/clone/pause").json()["data"]
    assert (paused["isPaused"], paused["depth"]) == (True, 1)
    assert platform.backends.queue.acquire("clone", 1, worker="w", request_id="a").jobs == ()
    reason = account.request("GET", f"/api/deployments/{deployment_id}/queue").json()["data"]["reason"]
    assert reason == "paused"
    assert administrator.request("POST", "/api/admin/queues/clone/resume").json()["data"]["isPaused"] is False
    assert len(platform.backends.queue.acquire("clone", 1, worker="w", request_id="b").jobs) == 1
    unknown = administrator.request("POST", "/api/admin/queues/paint/pause")
    assert unknown.status_code == 404
    assert "preview-cleanup" in unknown.json()["error"]["message"]


def test_a_dead_letter_of_a_live_deployment_is_retried_and_not_dropped(platform, account, administrator) -> None:
    deployment_id = deploy(account)
    job_id = kill(platform, "clone")
    [letter] = administrator.request("GET", "/api/admin/jobs?pool=clone").json()["data"]
    assert letter.pop("diedAt").startswith("20")
    assert letter == {
        "id": job_id, "pool": "clone", "tenantId": account.tenant_id, "deploymentId": deployment_id, "attempts": 1,
        "reason": "ValueError: no",
    }  # fmt: skip
    kept = administrator.request("POST", f"/api/admin/jobs/{job_id}/drop")
    assert kept.status_code == 409
    assert f"cloudify cancel {deployment_id}" in kept.json()["error"]["message"]
    retried = administrator.request("POST", f"/api/admin/jobs/{job_id}/retry")
    assert (retried.status_code, retried.json()["data"]) == (200, {"id": job_id, "state": "ready"})
    assert administrator.request("GET", "/api/admin/jobs").json()["data"] == []
    again = administrator.request("POST", f"/api/admin/jobs/{job_id}/retry")
    assert (again.status_code, again.json()["error"]["message"].split(";")[0]) == (409, "The job is ready")


def test_a_dead_letter_of_a_deployment_that_has_ended_is_dropped_and_not_retried(
    platform, account, administrator
) -> None:
    deployment_id = deploy(account)
    job_id = kill(platform, "clone")
    finish_all_as_failed(platform)
    refused = administrator.request("POST", f"/api/admin/jobs/{job_id}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ALREADY_FINISHED")
    assert f"/api/deployments/{deployment_id}/trigger" in refused.json()["error"]["message"]
    assert platform.backends.queue.find(job_id) == "dead"
    assert administrator.request("POST", f"/api/admin/jobs/{job_id}/drop").json()["data"]["state"] == "dropped"
    assert platform.backends.queue.find(job_id) is None
    assert administrator.request("POST", f"/api/admin/jobs/{job_id}/drop").status_code == 404


def test_dead_letters_of_all_pools_come_newest_first_and_are_bounded(platform, administrator) -> None:
    queue = platform.backends.queue
    for number, pool in enumerate(["rollback", "preview-cleanup", "rollback"]):
        queue.enqueue(Job(id=f"cleanup:{number}", pool=pool, actor="a", tenant_id="t", payload={}))
        kill(platform, pool)
    found = administrator.request("GET", "/api/admin/jobs").json()["data"]
    assert {job["id"] for job in found} == {"cleanup:0", "cleanup:1", "cleanup:2"}
    assert [job["diedAt"] for job in found] == sorted((job["diedAt"] for job in found), reverse=True)
    assert len(administrator.request("GET", "/api/admin/jobs?limit=1").json()["data"]) == 1
    assert [job["id"] for job in administrator.request("GET", "/api/admin/jobs?pool=preview-cleanup").json()["data"]] \
        == ["cleanup:1"]  # fmt: skip
    for query in ("limit=0", "limit=1001", "limit=x", "page=2"):
        assert administrator.request("GET", f"/api/admin/jobs?{query}").status_code in (400, 422), query
    assert administrator.request("GET", "/api/admin/jobs?pool=paint").status_code == 404
    # Of no deployment: its reconciler would do it anyway, the operator needn't wait.
    assert administrator.request("POST", "/api/admin/jobs/cleanup:1/retry").json()["data"]["state"] == "ready"
