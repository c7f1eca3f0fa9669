"""What is found in Redis's own words."""

from __future__ import annotations

from typing import Any, cast

import pytest

from shared.queue.job_queue import RedisJobQueue
from workers.doctor.findings import Status
from workers.doctor.servers import check_redis

GOOD = {
    "redis_version": "7.2.4", "valkey_version": "8.0.1", "role": "master", "maxmemory": "0",
    "maxmemory_policy": "noeviction", "aof_enabled": "1", "rdb_last_bgsave_status": "ok",
    "aof_last_write_status": "ok",
}  # fmt: skip


class Redis:
    def __init__(self, info: dict[str, str]) -> None:
        self._info = info

    def server_info(self) -> dict[str, str]:
        return self._info


def found(info: dict[str, str]) -> dict[str, Status]:
    queue: Any = Redis(info)
    return {finding.subject: finding.status for finding in check_redis(cast("RedisJobQueue", queue))}


@pytest.mark.parametrize(
    ("change", "subject", "status"),
    [
        ({}, "Redis", Status.OK),
        ({"valkey_version": "7.0.0"}, "Redis", Status.PROBLEM),
        ({"role": "slave"}, "Redis", Status.PROBLEM),
        ({"maxmemory_policy": "allkeys-lru"}, "Redis eviction", Status.WARNING),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "1000000"}, "Redis eviction", Status.PROBLEM),
        ({"aof_enabled": "0"}, "Redis persistence", Status.WARNING),
        ({"rdb_last_bgsave_status": "err"}, "Redis persistence", Status.PROBLEM),
    ],
)
def test_what_is_wrong_with_redis_is_found(change: dict[str, str], subject: str, status: Status) -> None:
    assert found(GOOD | change)[subject] is status
