"""Streams of deployments that wait tell their place in the queue as it changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.messages import Job
from shared.db.database import Database
from shared.deployments.jobs import stage_job_id
from shared.deployments.queue_positions import QueuePositions
from shared.deployments.state import Stage
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import Disposition
from tests.support.log_rows import end, eventually, new_deployment, status
from tests.support.log_stream_api import Follower, running_api

pytestmark = pytest.mark.integration


def places(follower: Follower) -> list[tuple[str, int | None]]:
    found: list[dict[str, Any]] = [json.loads(e.data) for e in list(follower.events) if e.event == "status" and e.data]
    return [(data["status"], data.get("queuePosition")) for data in found]


def test_a_place_is_sent_at_the_start_and_when_it_changes(database: Database, redis_url: str) -> None:
    with connect_redis(redis_url, timeout_seconds=120) as redis:
        queue = RedisJobQueue(redis, lease_seconds=3600)
        deployments = [new_deployment(database) for _ in range(3)]
        for deployment in deployments:
            job_id = stage_job_id(deployment, Stage.CLONE)
            job = Job(id=job_id, pool="clone", actor="a", tenant_id="ten_1", payload={}, slot=deployment)
            assert queue.enqueue(job)
        with running_api(database, redis_url, positions=QueuePositions(queue), position=0.05) as api:
            for deployment in deployments:
                api.append(status("queued"), deployment=deployment)
            first, last = api.follow(deployments[0]), api.follow(deployments[2])
            eventually(lambda: places(first) == [("queued", None), ("queued", 1)])
            eventually(lambda: places(last) == [("queued", None), ("queued", 3)])

            [acquired] = queue.acquire("clone", 1, worker="w", request_id="r1").jobs
            assert acquired.job.id == stage_job_id(deployments[0], Stage.CLONE)
            api.append(status("cloning"), deployment=deployments[0])
            eventually(lambda: places(last)[-1] == ("queued", 2))
            late = api.follow(deployments[2], headers={"Last-Event-ID": "1"})
            eventually(lambda: places(late) == [("queued", 2)])

            queue.finish(acquired.job.id, acquired.token, Disposition.DONE)
            queue.cancel(stage_job_id(deployments[1], Stage.CLONE))
            eventually(lambda: places(last)[-1] == ("queued", 1))
            for deployment in (deployments[0], deployments[2]):
                api.append(end(), deployment=deployment)
            assert places(first.join()) == [("queued", None), ("queued", 1), ("cloning", None)]
            assert places(last.join()) == [("queued", None), ("queued", 3), ("queued", 2), ("queued", 1)]
            late.join()
            # A place is no entry of the log.
            assert last.seqs == [1, 2]
