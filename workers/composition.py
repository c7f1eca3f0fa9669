"""The composition root of worker processes: what every pool needs, and the stages, each built with what it needs."""

from __future__ import annotations

from collections.abc import Callable

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
from shared.projects.credential_repository import RepositoryCredentialRepository
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
from workers.pipeline.stage import StageFunction
from workers.publishers.site_directory import SiteDirectoryPublisher
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore

Built = tuple[StageFunction, Executor | None]


class WorkerContext:
    """What every pool needs, built once from the settings and closed at the end."""

    def __init__(self, settings: Settings, worker: str) -> None:
        self.settings = settings
        self.worker = worker
        self.clock = SystemClock()
        self.database = Database(settings.database_url)
        self.redis = connect_redis(settings.redis_url)
        self.queue = RedisJobQueue(
            self.redis, lease_seconds=settings.lease_seconds, maximum_tenant_slots=settings.build.builds_at_once
        )
        self.store = S3ArtifactStore(settings.object_store)
        self.deployments = DeploymentRepository(self.database)
        self.stage_runs = StageRunRepository(self.database)
        self.releases = ReleaseRepository(self.database)
        self.sites = SiteRepository(self.database)
        self.log_store = PostgresLogStore(self.database, ArchiveReader(self.store))
        self.log_archives = LogArchiveRemover(self.store)
        self.doorbell = RedisDoorbell.connect(settings.redis_url)
        self.publisher = SiteDirectoryPublisher(
            settings.sites_directory, router_url=settings.router_url, domain=settings.sites_domain
        )
        self.artifacts = ArtifactReader(self.store, settings.cache_directory)
        self.lifecycle = LifecycleService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            releases=self.releases,
            sites=self.sites,
            log_store=self.log_store,
            doorbell=self.doorbell,
            clock=self.clock,
            settings=settings,
        )
        self.service = DeploymentService(
            database=self.database,
            deployments=self.deployments,
            stage_runs=self.stage_runs,
            queue=self.queue,
            log_store=self.log_store,
            doorbell=self.doorbell,
            clock=self.clock,
            settings=settings,
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

    def close(self) -> None:
        self.doorbell.close()
        self.redis.close()
        self.database.close()


def build_stage(context: WorkerContext, stage: Stage) -> Built:
    """The stage's function, and the executor that runs its commands where it runs any."""
    return _BUILDERS[stage](context)


def _clone(context: WorkerContext) -> Built:
    from workers.executors.cgroups import discover_control_groups
    from workers.stages.clone.ignored import IgnoredBuilds
    from workers.stages.clone.stage import CloneStage

    ignored = IgnoredBuilds(context.deployments)
    host_keys = RepositoryCredentialRepository(context.database)
    index = SnapshotIndex(context.database)
    groups = discover_control_groups()
    return CloneStage(_snapshots(context), index, context.settings, ignored, host_keys, groups), None


def _install(context: WorkerContext) -> Built:
    from workers.commands.tool_repository import ToolRepository
    from workers.commands.tools import ToolProvider
    from workers.reading.reader import ContentReader
    from workers.stages.install.stage import InstallStage

    executor, toolchain = _sandboxes(context)
    index = SnapshotIndex(context.database)
    snapshots = _snapshots(context)
    tools = ToolProvider(executor, snapshots, ToolRepository(context.database), toolchain)
    stage = InstallStage(executor, snapshots, index, toolchain, context.settings, tools, ContentReader())
    return stage, executor


def _build(context: WorkerContext) -> Built:
    from workers.stages.build.stage import BuildStage

    executor, toolchain = _sandboxes(context)
    index = SnapshotIndex(context.database)
    return BuildStage(executor, _snapshots(context), index, toolchain, context.settings), executor


def _upload(context: WorkerContext) -> Built:
    from workers.stages.upload import UploadStage

    index = SnapshotIndex(context.database)
    return UploadStage(_snapshots(context), index, context.store, context.settings), None


def _deploy(context: WorkerContext) -> Built:
    from workers.stages.deploy import DeployStage

    return DeployStage(context.publisher, context.artifacts), None


_BUILDERS: dict[Stage, Callable[[WorkerContext], Built]] = {
    Stage.CLONE: _clone,
    Stage.INSTALL: _install,
    Stage.BUILD: _build,
    Stage.UPLOAD: _upload,
    Stage.DEPLOY: _deploy,
}


def _snapshots(context: WorkerContext) -> SnapshotStore:
    settings = context.settings
    owner = owner_of_trees(settings.build)
    cache_bytes = settings.build.cache_bytes
    return SnapshotStore(context.store, settings.cache_directory, maximum_bytes=cache_bytes, owner=owner)


def _sandboxes(context: WorkerContext) -> tuple[Executor, Toolchain]:
    """The executor of the settings, tried out, and the toolchain that its sandboxes hold."""
    settings = context.settings
    if settings.build.executor == "docker":
        from workers.executors.docker.executor import DockerExecutor

        docker = DockerExecutor.for_host(settings.build, settings.home / "run" / "containers")
        docker.probe()
        return docker, docker.toolchain
    from workers.executors.bubblewrap.executor import BubblewrapExecutor

    toolchain = Toolchain.discover()
    bubblewrap = BubblewrapExecutor.for_host(settings.build, settings.home / "run" / "executions", toolchain)
    bubblewrap.probe()
    return bubblewrap, toolchain
