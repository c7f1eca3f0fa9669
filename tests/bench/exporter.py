"""What a scrape of the exporter costs with many jobs, tenants and workers: it should not depend on the first two.

`python -m tests.bench exporter [--jobs N] [--tenants N]`. Besides the scrape itself it measures how long Redis is busy
with it, because nothing else runs there meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from schemas.messages import Job
from shared.db.database import Database
from shared.db.migrate import migrate
from shared.deployments.state import Pool
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerRecord
from shared.stack.ports import free_ports
from shared.stack.postgres import PostgresServer
from tests.bench.queue import fill, job_of, line, server
from workers.exporter.collector import PlatformCollector, Source
from workers.exporter.queue import queue_families, worker_families
from workers.exporter.sources import read_database

_POOLS = [pool.value for pool in Pool]
_WORKERS_OF_A_POOL = 50
_SCRAPES = 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=10_000)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        for jobs in (1_000, options.jobs):
            _measure_queue(Path(folder) / str(jobs), jobs, min(jobs, options.tenants))
        _measure_database(Path(folder) / "postgres", options.jobs // 10, options.tenants)


def _measure_queue(folder: Path, jobs: int, tenants: int) -> None:
    def make(number: int) -> Job:
        job = job_of(number, f"t{number % tenants}", slot=f"d{number}", tenant_limit=1)
        return msgspec.structs.replace(job, pool=_POOLS[number % len(_POOLS)])

    with server(folder) as (_url, redis):
        queue = fill(redis, jobs, make)
        _register_workers(queue)
        collector = PlatformCollector([Source("queue", lambda: _queue(queue), dependency="redis")])
        registry = CollectorRegistry()
        registry.register(collector)
        times = _timed(lambda: generate_latest(registry))
        collector.close()
        workers = _WORKERS_OF_A_POOL * len(_POOLS)
        line(f"scrape: {jobs} jobs, {tenants} tenants, {workers} workers (p50, p99)", _shown(times))
        line("  of these, Redis is busy", f"{_busy_microseconds(redis, queue):.0f} µs")
        depth = sum(stats.depth for stats in queue.stats())
        assert depth == jobs, depth


def _queue(queue: RedisJobQueue) -> Iterable[Metric]:
    yield from queue_families(queue.stats())
    yield from worker_families(queue.workers())


def _register_workers(queue: RedisJobQueue) -> None:
    for pool in _POOLS:
        for number in range(_WORKERS_OF_A_POOL):
            queue.register_worker(WorkerRecord(pool, f"{pool}-{number}", 4, 1), expires_seconds=3600)


def _busy_microseconds(redis: Any, queue: RedisJobQueue) -> float:
    """Redis's own time for the scripts of one scrape."""
    redis.config_resetstat()
    for _ in range(_SCRAPES):
        queue.stats()
        queue.workers()
    statistics_of_commands = redis.info("commandstats")
    return float(statistics_of_commands["cmdstat_evalsha"]["usec"]) / _SCRAPES


def _measure_database(folder: Path, deployments: int, tenants: int) -> None:
    """Deployments that wait, and three times as many that have ended."""
    [port] = free_ports(1)
    postgres = PostgresServer(folder, port=port, password="b" * 32, is_durable=False)
    postgres.start()
    try:
        postgres.wait()
        migrate(postgres.url)
        database = Database(postgres.url)
        _fill_database(database, deployments, tenants)
        times = _timed(lambda: list(read_database(database)), count=20)
        line(f"database: {deployments} of {4 * deployments} deployments unfinished (p50, p99)", _shown(times))
        database.close()
    finally:
        postgres.stop()


def _fill_database(database: Database, deployments: int, tenants: int) -> None:
    statements = (
        "INSERT INTO tenants (id, name) SELECT 'ten_' || n, 'bench' FROM generate_series(1, %(tenants)s) n",
        (
            "INSERT INTO projects (id, tenant_id, name, slug, repository_url)"
            " SELECT 'proj_' || n, 'ten_' || n, 'p', 'p' || n, 'https://x' FROM generate_series(1, %(tenants)s) n"
        ),
        (
            "INSERT INTO deployments (id, tenant_id, project_id, trigger, repository_url, branch, settings, priority,"
            " release_sequence, host, status, started_at, finished_at, created_at)"
            " SELECT 'depl_' || n, 'ten_' || t, 'proj_' || t, 'api', 'https://x', 'main', '{}', 5, n, 'p' || t,"
            " s::deployment_status, CASE WHEN s <> 'queued' THEN now() END, CASE WHEN s = 'cancelled' THEN now() END,"
            " now() - interval '3 hours'"
            " FROM (SELECT n, 1 + n %% %(tenants)s AS t, CASE WHEN n <= %(tenants)s / 2 THEN 'building'"
            "       WHEN n <= %(deployments)s THEN 'queued' ELSE 'cancelled' END AS s"
            "       FROM generate_series(1, 4 * %(deployments)s) n) rows"
        ),
        (
            "INSERT INTO stage_runs (deployment_id, stage, fence, attempt, worker)"
            " SELECT id, 'build', 1, 1, 'w' FROM deployments WHERE status = 'building'"
        ),
        "ANALYZE",
    )
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(statement, {"tenants": tenants, "deployments": deployments})


def _timed(scrape: Callable[[], object], count: int = _SCRAPES) -> list[float]:
    scrape()
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        scrape()
        times.append(time.perf_counter() - started)
    return times


def _shown(times: list[float]) -> str:
    ordered = sorted(times)
    high = ordered[int(len(ordered) * 0.99) - 1]
    return f"{statistics.median(times) * 1000:.1f} ms, {high * 1000:.1f} ms"
