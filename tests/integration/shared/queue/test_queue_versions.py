"""Jobs of a newer version, in the hands of workers of this one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import dramatiq
import msgspec
import pytest
from redis import Redis

from schemas.messages import MESSAGE_VERSION, Job
from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import AcquiredJob, Disposition

pytestmark = pytest.mark.integration

JOB = Job(id="job", pool="p", actor="act", tenant_id="t", payload={"kept": True})
TIMEOUT_SECONDS = 120.0


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect_redis(redis_url, timeout_seconds=TIMEOUT_SECONDS) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> RedisJobQueue:
    return RedisJobQueue(redis, lease_seconds=3600)


def body_key(redis: Redis) -> bytes:
    [key] = redis.keys("*job:job")  # type: ignore[misc]
    return key


def enqueue(redis: Redis, queue: RedisJobQueue, **fields: Any) -> bytes:
    """As a newer version does it, with more fields. Returns the body in the queue."""
    queue.enqueue(JOB)
    body = json.dumps(json.loads(msgspec.json.encode(JOB)) | fields).encode()
    redis.hset(body_key(redis), "body", body)  # type: ignore[arg-type]
    return body


def acquire(queue: RedisJobQueue, request_id: str) -> AcquiredJob:
    [job] = queue.acquire("p", 1, worker="w", request_id=request_id).jobs
    return job


@pytest.mark.parametrize("way", ["retry", "release", "wait", "hand back", "requeue"])
def test_a_field_that_is_unknown_survives_whatever_becomes_of_the_job(
    redis: Redis, queue: RedisJobQueue, way: str
) -> None:
    body = enqueue(redis, queue, region="north")
    acquired = acquire(queue, "1")
    assert acquired.job.payload == JOB.payload
    if way == "hand back":
        queue.hand_back("p", "w", counts=False)
    elif way == "requeue":
        queue.finish("job", acquired.token, Disposition.DEAD, reason="x")
        assert queue.requeue_dead("job")
    else:
        queue.finish("job", acquired.token, Disposition(way))
    assert acquire(queue, "2").token > acquired.token
    assert redis.hget(body_key(redis), "body") == body


@pytest.mark.parametrize("payload", [{"kept": True}, {"kept": ["a", "list"]}])
def test_a_job_that_this_version_would_misunderstand_is_left_to_newer_workers(
    redis: Redis, queue: RedisJobQueue, payload: Any
) -> None:
    body = enqueue(redis, queue, version=MESSAGE_VERSION + 1, payload=payload)
    ran: list[str] = []
    broker = PriorityBroker(queue)
    dramatiq.actor(lambda: ran.append("ran"), actor_name="act", broker=broker, queue_name="p")  # type: ignore[call-overload]
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=200)
    worker.start()
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while queue.find("job") != "delayed":
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
    finally:
        worker.stop()
        broker.close()
    assert ran == []
    assert redis.hget(body_key(redis), "body") == body


def test_a_job_of_this_version_that_is_malformed_is_an_error(redis: Redis, queue: RedisJobQueue) -> None:
    enqueue(redis, queue, payload=["no mapping"])
    with pytest.raises(msgspec.ValidationError):
        acquire(queue, "1")
