"""The servers behind the API: the database, the queue, the object store and the notifications of Redis."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from shared.clock import SystemClock
from shared.db.database import Database
from shared.limits.windows import RedisWindows
from shared.logs.archive.store import ArchiveReader
from shared.logs.base import Notifier
from shared.logs.listener import RedisNotificationListener
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.settings import Settings
from shared.storage.base import ArtifactStore
from shared.storage.object_store import S3ArtifactStore

# As many as the threads of all lanes (api.edge.lanes) want at once, and some for the streams.
_DATABASE_CONNECTIONS = 24


@dataclass(frozen=True, slots=True)
class Backends:
    """The servers behind the API. `close` ends their connections."""

    database: Database
    queue: RedisJobQueue
    log_store: PostgresLogStore
    notifier: Notifier
    listener: RedisNotificationListener
    artifacts: ArtifactStore
    archives: ArtifactStore
    windows: RedisWindows
    close: Callable[[], None] = field(repr=False)


def connect_backends(settings: Settings) -> Backends:
    """Each server is connected to on first use, so that the API starts while they don't answer."""
    closers = ExitStack()
    # Clients wait for these answers: a late one becomes a 503, and the reconciler makes up for the queue.
    database = Database(
        settings.database.url,
        maximum_connections=_DATABASE_CONNECTIONS,
        timeout_seconds=3.0,
        answer_seconds=5.0,
        name="cloudify api",
        is_pooled=settings.database.is_pooled,
    )
    closers.callback(database.close)
    redis = connect_redis(
        settings.queue.redis_url, connect_timeout_seconds=1.0, timeout_seconds=1.0, client_name="cloudify-api"
    )
    closers.callback(redis.close)
    notifier = RedisNotifier.connect(settings.queue.redis_url)
    # Several threads read pages of finished logs there: a failed request is worth a retry.
    archives = S3ArtifactStore(
        settings.object_store,
        retry_seconds=2.0,
        timeout_seconds=3.0,
        connections=8,
        ca_bundle=settings.network.ca_bundle,
    )
    return Backends(
        database=database,
        queue=RedisJobQueue(
            redis, lease_seconds=settings.queue.lease_seconds, maximum_tenant_slots=settings.limits.builds_at_once
        ),
        log_store=PostgresLogStore(database, ArchiveReader(archives)),
        notifier=notifier,
        listener=RedisNotificationListener(settings.queue.redis_url),
        archives=archives,
        # Only for the health check, which doesn't wait out an outage.
        artifacts=S3ArtifactStore(
            settings.object_store,
            retry_seconds=0.0,
            timeout_seconds=2.0,
            connections=1,
            ca_bundle=settings.network.ca_bundle,
        ),
        windows=RedisWindows(redis, SystemClock()),
        close=closers.close,
    )
