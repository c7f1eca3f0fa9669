"""What the exporter reads from the stores of the platform."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from prometheus_client.core import Metric

from shared.accounts.session_repository import SessionRepository
from shared.db.database import Database
from shared.deployments.repository import DeploymentRepository
from shared.deployments.state import FINISHED, DeploymentStatus
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.settings import Settings
from shared.storage.object_store import S3ArtifactStore
from workers.exporter.certificates import certificates
from workers.exporter.collector import PlatformCollector, Source
from workers.exporter.gauges import gauge
from workers.exporter.queue import queue_families, worker_families

# The queue is read at each scrape: its scaling depends on it. These change slowly, or cost more.
_DATABASE_SECONDS = 15.0
_STORE_SECONDS = 15.0
_CERTIFICATES_SECONDS = 600.0


class PlatformFigures:
    """The collector of what is read from the stores, with connections of its own. `close` ends them."""

    def __init__(self, settings: Settings) -> None:
        self._closers = ExitStack()
        redis = connect_redis(settings.queue.redis_url, connect_timeout_seconds=1.0, timeout_seconds=2.0)
        self._closers.callback(redis.close)
        database = Database(
            settings.database.url,
            maximum_connections=2,
            timeout_seconds=2.0,
            answer_seconds=10.0,
            name="cloudify exporter",
            is_pooled=settings.database.is_pooled,
        )
        self._closers.callback(database.close)
        store = S3ArtifactStore(
            settings.object_store,
            retry_seconds=0.0,
            timeout_seconds=2.0,
            connections=1,
            ca_bundle=settings.network.ca_bundle,
        )
        self.queue = queue = RedisJobQueue(redis)
        self.collector = PlatformCollector(
            [
                Source("queue", lambda: _queue(queue), dependency="redis"),
                Source("database", lambda: read_database(database), _DATABASE_SECONDS, dependency="database"),
                Source("object_store", lambda: _store(store), _STORE_SECONDS, dependency="object_store"),
                Source("certificates", lambda: [certificates(settings)], _CERTIFICATES_SECONDS),
            ]
        )
        self._closers.callback(self.collector.close)

    def close(self) -> None:
        self._closers.close()


def _queue(queue: RedisJobQueue) -> Iterable[Metric]:
    yield from queue_families(queue.stats())
    yield from worker_families(queue.workers())


def _store(store: S3ArtifactStore) -> Iterable[Metric]:
    store.ping()
    return ()


def read_database(database: Database) -> Iterable[Metric]:
    """The figures of deployments, logins and routers. Raises Unavailable."""
    stuck = DeploymentRepository(database).count_stuck()
    unfinished = [status for status in DeploymentStatus if status not in FINISHED]
    yield gauge("deployments_stuck", {status.value: stuck.get(status, 0) for status in unfinished})
    yield gauge("active_sessions", SessionRepository(database).count_active())
    yield from _routers(RouterRepository(database), RouteLog(database))


def _routers(routers: RouterRepository, log: RouteLog) -> Iterable[Metric]:
    rows = routers.all()
    counts = {"ready": 0, "not_ready": 0, "silent": 0}
    for row in rows:
        state = "silent" if not row.is_live else "ready" if row.problem is None else "not_ready"
        counts[state] += 1
    yield gauge("routers", counts)
    position = log.position()
    # One of another epoch starts from the snapshot, at once.
    behind = [position.number - row.applied_number for row in rows if row.is_live and row.epoch == position.epoch]
    yield gauge("routers_lag_changes", max([*behind, 0]))
