"""The stages of the pipeline: one entry each, built with what it needs and nothing more."""

from __future__ import annotations

from collections.abc import Callable

from shared.deployment_state import Stage
from shared.repositories.snapshots import SnapshotIndex
from workers.context import WorkerContext
from workers.executors.base import Executor
from workers.snapshots import SnapshotStore
from workers.stage import StageFunction
from workers.toolchain import Toolchain

Built = tuple[StageFunction, Executor | None]


def build_stage(context: WorkerContext, stage: Stage) -> Built:
    """The stage's function, and the executor that runs its commands where it runs any."""
    return _BUILDERS[stage](context)


def _clone(context: WorkerContext) -> Built:
    from workers.stages.clone import CloneStage

    return CloneStage(_snapshots(context), SnapshotIndex(context.database), context.settings), None


def _install(context: WorkerContext) -> Built:
    from shared.repositories.tools import ToolRepository
    from workers.stages.install import InstallStage
    from workers.tools import ToolProvider

    toolchain = Toolchain.discover()
    executor = _executor(context, toolchain)
    index = SnapshotIndex(context.database)
    snapshots = _snapshots(context)
    tools = ToolProvider(executor, snapshots, ToolRepository(context.database), toolchain)
    return InstallStage(executor, snapshots, index, toolchain, context.settings, tools), executor


def _build(context: WorkerContext) -> Built:
    from workers.stages.build import BuildStage

    toolchain = Toolchain.discover()
    executor = _executor(context, toolchain)
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
    return SnapshotStore(context.store, settings.cache_directory, maximum_bytes=settings.build.cache_bytes)


def _executor(context: WorkerContext, toolchain: Toolchain) -> Executor:
    from workers.executors.bubblewrap import BubblewrapExecutor

    runtime_directory = context.settings.home / "run" / "executions"
    executor = BubblewrapExecutor.for_host(context.settings.build, runtime_directory, toolchain)
    executor.probe()
    return executor
