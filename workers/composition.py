"""The stages of the pipeline: one entry each, built with what it needs and nothing more."""

from __future__ import annotations

from collections.abc import Callable

from shared.deployments.state import Stage
from shared.projects.credential_repository import RepositoryCredentialRepository
from workers.connections import WorkerContext
from workers.executors.base import Executor
from workers.executors.toolchain import Toolchain
from workers.filesystem.ownership import owner_of_trees
from workers.pipeline.stage import StageFunction
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore

Built = tuple[StageFunction, Executor | None]


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
