"""The figures of the queue and its workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import Metric

from shared.queue.base import PoolStats
from shared.queue.records import WorkerRecord
from workers.exporter.gauges import gauge


def queue_families(pools: Sequence[PoolStats]) -> Iterable[Metric]:
    yield gauge("queue_depth", {pool.pool: pool.depth for pool in pools})
    yield gauge("queue_inflight", {pool.pool: pool.inflight for pool in pools})
    yield gauge("queue_delayed", {pool.pool: pool.delayed for pool in pools})
    yield gauge("queue_dead", {pool.pool: pool.dead for pool in pools})
    yield gauge("queue_paused", {pool.pool: pool.is_paused for pool in pools})
    yield gauge("queue_oldest_age_seconds", {pool.pool: pool.oldest_age_seconds for pool in pools})
    yield gauge("builds_waiting_quota", sum(pool.waiting_for_slot for pool in pools))


def worker_families(workers: Iterable[WorkerRecord]) -> Iterable[Metric]:
    threads: dict[str, float] = {}
    busy: dict[str, float] = {}
    seen: dict[str, float] = {}
    for worker in workers:
        threads[worker.pool] = threads.get(worker.pool, 0) + worker.threads
        busy[worker.pool] = busy.get(worker.pool, 0) + worker.busy
        seen[worker.pool] = max(seen.get(worker.pool, 0.0), worker.seen_at)
    yield gauge("worker_threads", threads)
    yield gauge("worker_busy_threads", busy)
    yield gauge("worker_heartbeat_timestamp_seconds", seen)
