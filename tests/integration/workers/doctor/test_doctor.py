"""The examination of an installation, on real servers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.db.database import Database
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerRecord, WorkerState
from shared.routing.log import RouteLog
from shared.routing.routers import RouterReport, RouterRepository
from shared.settings import ObjectStoreSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def environment(
    database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CLOUDIFY_")},
        "CLOUDIFY_HOME": str(tmp_path / "home"),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        "CLOUDIFY_S3_ENDPOINT": object_store_settings.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": object_store_settings.access_key,
        "CLOUDIFY_S3_SECRET_KEY": object_store_settings.secret_key,
        "CLOUDIFY_S3_BUCKET": object_store_settings.bucket,
        "CLOUDIFY_SECRET_KEY": "x" * 32,
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(b"1" * 32).decode(),
        # Nothing listens there: the registries are warnings.
        "CLOUDIFY_EGRESS_PROXY": "http://127.0.0.1:9",
    }


def cloudify(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # As the entry point does.
    command = [sys.executable, "-c", "from api.cli.main import main; main()", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def examined(environment: dict[str, str]) -> tuple[dict[str, Any], int]:
    finished = cloudify("doctor", "--json", environment=environment)
    assert finished.stdout, finished.stderr
    findings = json.loads(finished.stdout)["findings"]
    return {finding["subject"]: finding for finding in findings}, finished.returncode


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {subject: finding["status"] for subject, finding in found.items()}


def make_complete(database: Database, queue: RedisJobQueue) -> None:
    """As with a worker of every pool and a router."""
    for pool in ("clone", "install", "build", "upload", "deploy", "rollback", "preview-cleanup"):
        queue.register_worker(WorkerRecord(pool, f"w-{pool}", 1, 0), expires_seconds=3600)
    position = RouteLog(database).position()
    report = RouterReport(
        id="router-1", machine="m", version="0", url="http://m", epoch=position.epoch,
        applied_number=position.number, snapshot_number=0, problem=None, sites=0,
    )  # fmt: skip
    RouterRepository(database).report(report)


def test_a_complete_platform_has_no_problems(environment: dict[str, str], database: Database, redis_url: str) -> None:
    with connect_redis(redis_url) as redis:
        make_complete(database, RedisJobQueue(redis))
        found, code = examined(environment)
        assert "problem" not in statuses(found).values(), found
        assert code == 0
        for subject in ("settings", "PostgreSQL", "migrations", "Redis", "object store", "sandbox", "workers"):
            assert found[subject]["status"] == "ok", found[subject]
        assert found["clock and PostgreSQL"]["status"] == found["clock and Redis"]["status"] == "ok"
        assert found["router router-1"]["status"] == "ok"
        assert found["npm registry"]["status"] == found["Python index"]["status"] == "warning"
        RedisJobQueue(redis).register_worker(
            WorkerRecord("clone", "w-clone", 1, 0, state=WorkerState.PAUSED, reason="It only fails."),
            expires_seconds=3600,
        )
        found, code = examined(environment)
        assert code == 1
        assert "clone" in found["workers"]["message"]
        assert found["worker w-clone"]["message"] == "It only fails."


def test_each_thing_that_is_wrong_is_told_with_what_to_do(environment: dict[str, str], database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM schema_migrations WHERE name = (SELECT max(name) FROM schema_migrations)")
    found, code = examined(environment | {"CLOUDIFY_S3_SECRET_KEY": "wrong" * 8})
    assert code == 1
    for subject in ("migrations", "object store", "routers", "workers"):
        assert found[subject]["status"] == "problem"
        assert found[subject]["advice"]


def test_servers_that_are_away_are_problems_and_nothing_waits_for_them(environment: dict[str, str]) -> None:
    away = {
        "CLOUDIFY_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "CLOUDIFY_REDIS_URL": "redis://127.0.0.1:9",
        "CLOUDIFY_S3_ENDPOINT": "http://127.0.0.1:9",
    }
    found, code = examined(environment | away)
    assert code == 1
    assert [found[name]["status"] for name in ("PostgreSQL", "Redis", "object store")] == ["problem"] * 3


def test_invalid_settings_are_all_told(environment: dict[str, str]) -> None:
    found = cloudify("doctor", environment=environment | {"CLOUDIFY_SECRET_KEY": "short", "CLOUDIFY_API_PORT": "x"})
    assert found.returncode == 2
    assert "CLOUDIFY_SECRET_KEY" in found.stdout
    assert "CLOUDIFY_API_PORT" in found.stdout
