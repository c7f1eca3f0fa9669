"""A worker process on a machine whose clock is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.messages import RELEASE_ACTOR, Job
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerState
from shared.settings import ObjectStoreSettings
from tests.support.log_rows import eventually
from tests.support.worker_process import worker_environment, worker_process

pytestmark = pytest.mark.integration


@pytest.fixture
def environment(
    database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> dict[str, str]:
    return worker_environment(tmp_path / "home", database_url, redis_url, object_store_settings)


@pytest.fixture
def queue(redis_url: str) -> Iterator[RedisJobQueue]:
    with connect_redis(redis_url, timeout_seconds=60) as redis:
        yield RedisJobQueue(redis)


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    return tmp_path / "clock"


def set_clock(clock: Path, seconds: float) -> None:
    partial = clock.with_suffix(".partial")
    partial.write_text(str(seconds))
    partial.replace(clock)


def test_it_does_not_start_and_says_why(
    environment: dict[str, str], queue: RedisJobQueue, clock: Path, tmp_path: Path
) -> None:
    set_clock(clock, -3600)
    with worker_process(environment, "rollback", log=tmp_path / "log", clock=clock) as process:
        assert process.wait(120) == 1
    assert "3600 s behind PostgreSQL's and 3600 s behind Redis's" in (tmp_path / "log").read_text().splitlines()[-1]
    assert queue.workers() == []


def test_it_pauses_while_it_runs_and_continues(
    environment: dict[str, str], queue: RedisJobQueue, clock: Path, tmp_path: Path
) -> None:
    set_clock(clock, 0)

    def state() -> tuple[WorkerState, bool] | None:
        return next(((record.state, "3600 s ahead" in record.reason) for record in queue.workers()), None)

    with worker_process(environment, "rollback", log=tmp_path / "log", clock=clock):
        eventually(lambda: state() == (WorkerState.RUNNING, False), 120)
        set_clock(clock, 3600)
        eventually(lambda: state() == (WorkerState.PAUSED, True), 120)
        queue.enqueue(
            Job(id="r", pool="rollback", actor=RELEASE_ACTOR, tenant_id="t", payload={"release_id": "rel_none"})
        )
        assert queue.find("r") == "ready"
        set_clock(clock, 0)
        eventually(lambda: queue.find("r") is None, 120)
        eventually(lambda: state() == (WorkerState.RUNNING, False), 120)
