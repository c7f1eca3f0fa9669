"""A deployment ends READY, once, although a process dies in the middle of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.deployments.jobs import stage_job_id
from shared.deployments.state import Stage
from tests.support.redis_failover import FailoverPair, failover_pair
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, HOLD, MANY_FILES, node_site

pytestmark = pytest.mark.e2e


def expect_ready_once(platform: Platform, deployment_id: str, host: str, content: str) -> dict:
    deployment = platform.release_and_finish(deployment_id)
    assert deployment["status"] == "ready", (deployment["error"], platform.log_text(deployment_id))
    succeeded = [run["stage"] for run in deployment["stages"] if run["status"] == "succeeded"]
    assert sorted(succeeded) == sorted(stage.value for stage in Stage), deployment["stages"]
    assert content in platform.get_site(host).text
    # A stage is recorded before its job is finished: the queue is empty a moment later.
    queue = platform.queue()
    places = [stage_job_id(deployment_id, stage) for stage in Stage]
    wait_for(lambda: all(queue.find(place) is None for place in places), what="no job is left")
    with platform.database() as database:
        tenant_id = database.fetch_value(
            str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", {"id": deployment_id}
        )
        is_closed = database.fetch_value(
            bool, "SELECT is_closed FROM log_heads WHERE deployment_id = %(id)s", {"id": deployment_id}
        )
    assert tenant_id is not None
    assert is_closed
    wait_for(lambda: deployment_id not in queue.running_set(tenant_id), what="the slot is free")
    return deployment


@pytest.mark.parametrize("stage", list(Stage))
def test_sigkill_of_the_pool_in_a_stage(platform: Platform, repositories: Path, stage: Stage):
    content = f"killed in {stage.value}"
    host = f"kill-{stage.value}"
    after = MANY_FILES if stage in (Stage.UPLOAD, Stage.DEPLOY) else ""
    files = node_site(content, before=HOLD if stage is Stage.BUILD else "", after=after)
    if stage is Stage.INSTALL:
        # An install that takes time: nothing to fetch, but a lifecycle script.
        files["wait.js"] = HOLD
        files["package.json"] = files["package.json"].replace(
            '"build":', '"postinstall": "node wait.js",\n    "build":'
        )
    project = platform.create_project(host, make_repository(repositories / "site", files), **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    if stage in (Stage.INSTALL, Stage.BUILD):
        platform.wait_held(deployment_id)
    else:
        platform.wait_stage(deployment_id, stage)
    killed = platform.kill(f"worker-{stage.value}")
    deployment = expect_ready_once(platform, deployment_id, host, content)
    runs = [run for run in deployment["stages"] if run["stage"] == stage.value]
    assert runs[-1]["status"] == "succeeded"
    if stage in (Stage.INSTALL, Stage.BUILD):
        assert [run["status"] for run in runs] == ["retrying", "succeeded"]
        assert not any(process.ppid() == killed for process in platform.build_processes())


@pytest.mark.parametrize("role", ["valkey", "postgres", "object-store"])
def test_a_store_that_is_away_for_20_seconds_in_mid_build(platform: Platform, repositories: Path, role: str):
    """A stopped store (SIGSTOP) accepts connections and never answers: the worst kind of outage."""
    content, host = f"outage of {role}", f"outage-{role}"
    files = node_site(content, before=HOLD)
    project = platform.create_project(host, make_repository(repositories / "site", files), **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_held(deployment_id)
    pid = platform.pid(role)
    os.kill(pid, signal.SIGSTOP)
    try:
        import time

        time.sleep(20)  # the outage itself, not a wait for a condition
    finally:
        os.kill(pid, signal.SIGCONT)
    expect_ready_once(platform, deployment_id, host, content)


@pytest.mark.parametrize("role", ["valkey", "postgres", "object-store"])
def test_sigkill_of_a_store_in_mid_build(platform: Platform, repositories: Path, role: str):
    content, host = f"kill of {role}", f"kill-of-{role}"
    files = node_site(content, before=HOLD)
    project = platform.create_project(host, make_repository(repositories / "site", files), **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_held(deployment_id)
    platform.kill(role)
    expect_ready_once(platform, deployment_id, host, content)


def test_a_redis_that_loses_everything(platform: Platform, repositories: Path):
    content, host = "flushed", "flushed"
    files = node_site(content, before=HOLD)
    project = platform.create_project(host, make_repository(repositories / "site", files), **BUILD)
    running = platform.create_deployment(project["id"])["id"]
    waiting = platform.create_deployment(project["id"])["id"]
    platform.wait_held(running)
    platform.redis.flushall()
    for deployment_id in (running, waiting):
        expect_ready_once(platform, deployment_id, host, content)


@pytest.fixture
def failover(start_platform: Callable[..., Platform], tmp_path: Path) -> Iterator[tuple[Platform, FailoverPair]]:
    with failover_pair(tmp_path / "redis") as pair:
        platform = start_platform("failover", REDIS_URL=pair.url, LEASE_SECONDS="8", RECONCILE_SECONDS="1")
        with platform.plan("PRO"):
            yield platform, pair
        platform.close()


def test_a_redis_that_fails_over_to_a_replica_behind_it(failover: tuple[Platform, FailoverPair], repositories: Path):
    """What happened in the time that the new primary doesn't know of is neither lost nor done again."""
    platform, pair = failover
    held = make_repository(repositories / "held", node_site("held", before=HOLD))

    def begin(name: str) -> str:
        return platform.create_deployment(platform.create_project(name, held, **BUILD)["id"])["id"]

    switched = platform.create_project("switched", make_repository(repositories / "site", {"index.html": "one"}))
    first = platform.finish(platform.create_deployment(switched["id"])["id"])["id"]
    commit(repositories / "site", {"index.html": "two"})
    platform.finish(platform.create_deployment(switched["id"])["id"])
    cancelled, finished = begin("cancelled"), begin("finished")
    for deployment_id in (cancelled, finished):
        platform.wait_held(deployment_id)

    pair.stop_replication()
    platform.call("POST", f"/api/deployments/{cancelled}/cancel")
    platform.wait_status(cancelled, "cancelled")
    expect_ready_once(platform, finished, "finished", "held")
    platform.call("POST", f"/api/deployments/{first}/rollback")
    wait_for(lambda: platform.get_site("switched").text == "one", what="the rollback is done")
    unknown = begin("unknown")
    platform.wait_held(unknown)
    pair.fail_over()

    later = begin("later")
    for deployment_id, host in ((unknown, "unknown"), (later, "later"), (finished, "finished")):
        expect_ready_once(platform, deployment_id, host, "held")
    queue = platform.queue()
    wait_for(
        lambda: not any(row.depth + row.inflight + row.delayed + row.dead for row in queue.stats()),
        what="no job is left",
    )
    assert platform.deployment(cancelled)["status"] == "cancelled"
    assert platform.get_site("cancelled").status_code == 404
    assert platform.get_site("switched").text == "one"
    with platform.database() as database:
        assert database.fetch_values(str, "SELECT status::text FROM releases") == ["done"]
