"""The composition root of worker processes: what every pool needs, and the stages, each built with what it needs."""

from __future__ import annotations

from shared.clock import SystemClock
from shared.db.database import Database
from shared.deployments.repository import DeploymentRepository
from shared.deployments.service import DeploymentService
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import Stage
from shared.logs.archive.store import ArchiveReader, LogArchiveRemover
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.notifier import RedisDoorbell
from shared.logs.store import PostgresLogStore
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.releases.repository import ReleaseRepository
from shared.releases.site_repository import SiteRepository
from shared.settings import Settings
from shared.storage.object_store import S3ArtifactStore
from workers.artifacts.reader import ArtifactReader
from workers.executors.base import Executor
from workers.executors.toolchain import Toolchain
from workers.filesystem.ownership import owner_of_trees
from workers.pipeline.lifecycle import LifecycleService
from workers.publishers.site_directory import SiteDirectoryPublisher
from workers.snapshots.store import SnapshotStore


class WorkerContext:
    """What every pool needs, built once from the settings and closed at the end."""

    def __init__(self, settings: Settings, worker: str) -> None:
        self.settings = settings
        self.worker = worker
        self.clock = SystemClock()
        self.database = Database(settings.database.url)
        self.redis = connect_redis(settings.queue.redis_url)
        self.queue = RedisJobQueue(
            self.redis, lease_seconds=settings.queue.lease_seconds, maximum_tenant_slots=settings.limits.builds_at_once
        )
        self.store = S3ArtifactStore(settings.object_store)
        self.deployments = DeploymentRepository(self.database)
        self.stage_runs = StageRunRepository(self.database)
        self.releases = ReleaseRepository(self.database)
        self.sites = SiteRepository(self.database)
        self.log_store = PostgresLogStore(self.database, ArchiveReader(self.store))
        self.log_archives = LogArchiveRemover(self.store)
        self.doorbell = RedisDoorbell.connect(settings.queue.redis_url)
        self.publisher = SiteDirectoryPublisher(
            settings.directories.sites, router_url=settings.sites.router_url, domain=settings.sites.domain
        )
        self.artifacts = ArtifactReader(self.store, settings.directories.cache)
        self.lifecycle = LifecycleService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            releases=self.releases,
            sites=self.sites,
            log_store=self.log_store,
            doorbell=self.doorbell,
            clock=self.clock,
            limits=settings.limits,
            site_settings=settings.sites,
        )
        self.service = DeploymentService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            releases=self.releases,
            sites=self.sites,
            queue=self.queue,
            log_store=self.log_store,
            doorbell=self.doorbell,
            clock=self.clock,
            site_settings=settings.sites,
        )

    def open_log(self, deployment_id: str, stage: Stage, fence: int, redactor: Redactor) -> LogWriter:
        return LogWriter(
            store=self.log_store,
            database=self.database,
            doorbell=self.doorbell,
            deployment_id=deployment_id,
            stage=stage.value,
            fence=fence,
            redactor=redactor,
            clock=self.clock,
        )

    def snapshots(self) -> SnapshotStore:
        settings = self.settings
        owner = owner_of_trees(settings.executor)
        cache_bytes = settings.cache.maximum_bytes
        return SnapshotStore(self.store, settings.directories.cache, maximum_bytes=cache_bytes, owner=owner)

    def sandboxes(self) -> tuple[Executor, Toolchain]:
        """The executor that the settings name, tried out, and the toolchain that its sandboxes hold."""
        settings = self.settings
        runtime = settings.directories.home / "run"
        if settings.executor.name == "docker":
            from workers.executors.docker.executor import DockerExecutor

            docker = DockerExecutor.for_host(settings.executor, settings.network, runtime / "containers")
            docker.probe()
            return docker, docker.toolchain
        from workers.executors.bubblewrap.executor import BubblewrapExecutor

        toolchain = Toolchain.discover()
        bubblewrap = BubblewrapExecutor.for_host(settings.network, runtime / "executions", toolchain)
        bubblewrap.probe()
        return bubblewrap, toolchain

    def close(self) -> None:
        self.doorbell.close()
        self.redis.close()
        self.database.close()
