"""How many connections to PostgreSQL a busy worker process holds."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.messages import RELEASE_ACTOR, Job
from shared.db.database import Database, connections_for
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.settings import ObjectStoreSettings
from tests.support.log_rows import eventually

pytestmark = pytest.mark.integration
THREADS = 3
JOBS = 1000
HELD = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cloudify %rollback%'"


def test_a_busy_worker_never_holds_more_than_its_threads_need(
    database_url: str, database: Database, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "CLOUDIFY_HOME": str(tmp_path),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        "CLOUDIFY_S3_ENDPOINT": object_store_settings.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": object_store_settings.access_key,
        "CLOUDIFY_S3_SECRET_KEY": object_store_settings.secret_key,
        "CLOUDIFY_S3_BUCKET": object_store_settings.bucket,
        "CLOUDIFY_SECRET_KEY": "x" * 32,
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(b"1" * 32).decode(),
        "CLOUDIFY_METRICS_PORT": "0",
    }
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

        command = [sys.executable, "-m", "workers.main", "rollback", "--threads", str(THREADS)]
        process = subprocess.Popen(command, env=environment)
        try:
            eventually(is_done, 120)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert 0 < max(seen) <= connections_for(THREADS)
