"""How many connections to PostgreSQL a busy worker process holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.messages import RELEASE_ACTOR, Job
from shared.db.database import Database, connections_for
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.settings import ObjectStoreSettings
from tests.support.log_rows import eventually
from tests.support.worker_process import worker_environment, worker_process

pytestmark = pytest.mark.integration
THREADS = 3
JOBS = 300
HELD = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cloudify %rollback%'"


def test_a_busy_worker_never_holds_more_than_its_threads_need(
    database_url: str, database: Database, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    environment = worker_environment(tmp_path / "home", database_url, redis_url, object_store_settings)
    seen: list[int] = []
    with connect_redis(redis_url, timeout_seconds=60) as redis:
        queue = RedisJobQueue(redis)
        # Releases that don't exist: each is a look into the database.
        for number in range(JOBS):
            payload = {"release_id": f"rel_{number}"}
            queue.enqueue(
                Job(id=f"r{number}", pool="rollback", actor=RELEASE_ACTOR, tenant_id=f"t{number % 7}", payload=payload)
            )

        def is_done() -> bool:
            seen.append(database.fetch_value(int, HELD) or 0)
            return all(row.depth + row.inflight == 0 for row in queue.stats())

        with worker_process(environment, "rollback", "--threads", str(THREADS), log=tmp_path / "log"):
            eventually(is_done, 300)
    assert 0 < max(seen) <= connections_for(THREADS)
