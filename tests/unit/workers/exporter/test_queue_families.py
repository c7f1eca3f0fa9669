"""What a scrape says of the queue and its workers."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from shared.queue.base import PoolStats
from shared.queue.records import WorkerRecord
from workers.exporter.queue import queue_families, worker_families


class _Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def test_pools_and_their_workers_are_shown() -> None:
    stats = PoolStats("build", 3, 2, 1, 4, 7.5, is_paused=False, waiting_for_slot=2)
    workers = [
        WorkerRecord("build", "w1", 4, 2, 100.5), WorkerRecord("build", "w2", 2, 1, 99.0),
        WorkerRecord("clone", "w3", 8, 0, 90.0),
    ]  # fmt: skip
    registry = CollectorRegistry()
    registry.register(_Families([*queue_families([stats]), *worker_families(workers)]))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"cloudify_{name}", labels)

    assert value("queue_depth", queue="build") == 3
    assert value("queue_inflight", queue="build") == 2
    assert value("queue_delayed", queue="build") == 1
    assert value("queue_dead", queue="build") == 4
    assert value("queue_paused", queue="build") == 0
    assert value("queue_oldest_age_seconds", queue="build") == 7.5
    assert value("builds_waiting_quota") == 2
    assert value("worker_threads", pool="build") == 6
    assert value("worker_busy_threads", pool="build") == 3
    assert value("worker_heartbeat_timestamp_seconds", pool="build") == 100.5
    assert value("worker_threads", pool="clone") == 8
