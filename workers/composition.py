"""The composition root of worker processes: what every pool needs, and the stages, each built with what it needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property

from shared.clock import SystemClock
from shared.clock_guard import ClockGuard
from shared.db.database import Database
from shared.deployments.repository import DeploymentRepository
from shared.deployments.service import DeploymentService
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import Stage
from shared.deployments.termination_service import TerminationService
from shared.errors import PlatformError
from shared.logs.archive.store import ArchiveReader, LogArchiveRemover
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.releases.repository import ReleaseRepository
from shared.releases.site_repository import SiteRepository
from shared.routing.log import RouteLog
from shared.settings import Settings
from shared.storage.object_store import S3ArtifactStore
from workers.artifacts.reader import ArtifactReader
from workers.executors.base import Executor
from workers.executors.table import executor_backend
from workers.pipeline.lifecycle import LifecycleService
from workers.pipeline.release_lifecycle import ReleaseLifecycleService
from workers.publishers.table import publisher_backend
from workers.site_pods.objects import SiteObjects
from workers.site_pods.opening import open_site_objects, open_site_pods
from workers.site_pods.site_pods import SitePods
from workers.snapshots.store import SnapshotStore

_CHECK_BYTES = 1 << 20


class WorkerContext:
    """What every pool needs, built once from the settings and closed at the end."""

    def __init__(self, settings: Settings, worker: str, *, connections: int) -> None:
        """`connections`: the most to PostgreSQL at once."""
        self.settings = settings
        self.worker = worker
        self._executors = ExitStack()
        self.clock = SystemClock()
        self.database = Database(
            settings.database.url,
            maximum_connections=connections,
            name=f"cloudify {worker}",
            is_pooled=settings.database.is_pooled,
        )
        self.redis = connect_redis(settings.queue.redis_url)
        self.queue = RedisJobQueue(
            self.redis, lease_seconds=settings.queue.lease_seconds, maximum_tenant_slots=settings.limits.builds_at_once
        )
        self.store = S3ArtifactStore(settings.object_store, ca_bundle=settings.network.ca_bundle)
        self.deployments = DeploymentRepository(self.database)
        self.stage_runs = StageRunRepository(self.database)
        self.releases = ReleaseRepository(self.database)
        self.sites = SiteRepository(self.database)
        self.log_store = PostgresLogStore(self.database, ArchiveReader(self.store))
        self.log_archives = LogArchiveRemover(self.store)
        self.notifier = RedisNotifier.connect(settings.queue.redis_url)
        self.route_log = RouteLog(self.database)
        self.publisher = publisher_backend(settings.sites.publisher).open_publisher(settings, self.database)
        self.artifacts = ArtifactReader(self.store, settings.directories.cache)
        self.lifecycle = self._build_lifecycle()
        self.release_lifecycle = ReleaseLifecycleService(
            database=self.database, releases=self.releases, sites=self.sites
        )
        self.terminations = self._build_termination_service()
        self.service = self._build_deployment_service()

    def open_executor(self) -> Executor:
        """The executor of the settings, probed. Raises PlatformError with instructions."""
        executor = executor_backend(self.settings.executor.name).open_executor(self.settings)
        self._executors.callback(executor.close)
        executor.probe()
        return executor

    def find_problem(self) -> str | None:
        """What is wrong with this machine's disk or its way to the object store; None if nothing is.

        Not the executor: its probe may wait for a node of a cluster, and is for the start.
        """
        folder = self.settings.directories.work
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(_CHECK_BYTES))
                os.fsync(file.fileno())
            self.store.ping()
        except (PlatformError, OSError) as error:
            return str(error)
        return None

    def open_log(self, deployment_id: str, stage: Stage, fence: int, redactor: Redactor) -> LogWriter:
        return LogWriter(
            store=self.log_store,
            database=self.database,
            notifier=self.notifier,
            deployment_id=deployment_id,
            stage=stage.value,
            fence=fence,
            redactor=redactor,
            clock=self.clock,
        )

    @cached_property
    def site_objects(self) -> SiteObjects:
        """The objects of sites in the cluster. Raises PlatformError if no cluster is known."""
        objects = open_site_objects(self.settings)
        self._executors.callback(objects.close)
        return objects

    def site_pods(self) -> SitePods | None:
        """None if the platform has no cluster for sites. Raises PlatformError."""
        if not self.settings.site_pods.is_offered:
            return None
        return open_site_pods(self.settings, self.database, self.artifacts, self.site_objects)

    def snapshots(self) -> SnapshotStore:
        settings = self.settings
        return SnapshotStore(
            self.store,
            settings.directories.cache,
            maximum_bytes=settings.cache.maximum_bytes,
            owner=executor_backend(settings.executor.name).owner_of_trees(),
        )

    def clock_guard(self, on_change: Callable[[str | None], None] = lambda _problem: None) -> ClockGuard:
        """Raises PlatformError if this machine's clock is wrong."""
        servers = {"PostgreSQL": self.database.server_time, "Redis": self.queue.server_time}
        guard = ClockGuard(servers, on_change=on_change, clock=self.clock)
        if problem := guard.compare():
            raise PlatformError(problem)
        return guard

    def close(self) -> None:
        self.notifier.close()
        self.redis.close()
        self.database.close()
        # Last: a job that is still running could otherwise record that its sandbox was lost.
        self._executors.close()

    def _build_lifecycle(self) -> LifecycleService:
        return LifecycleService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            releases=self.releases,
            sites=self.sites,
            log_store=self.log_store,
            notifier=self.notifier,
            clock=self.clock,
            limits=self.settings.limits,
            site_settings=self.settings.sites,
        )

    def _build_termination_service(self) -> TerminationService:
        return TerminationService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            queue=self.queue,
            log_store=self.log_store,
            notifier=self.notifier,
            clock=self.clock,
        )

    def _build_deployment_service(self) -> DeploymentService:
        return DeploymentService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            queue=self.queue,
            log_store=self.log_store,
            notifier=self.notifier,
            clock=self.clock,
            terminations=self.terminations,
            site_settings=self.settings.sites,
        )
