"""The install stage: detects what the project is and installs its dependencies, or finds them installed already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shared.settings import LimitSettings, SecretSettings
from workers.commands.sandboxed import check_command
from workers.commands.tool_repository import ToolRepository
from workers.commands.tools import ToolProvider
from workers.executors.base import Executor
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Overrides
from workers.frameworks.node_projects import FORCING_VARIABLE
from workers.frameworks.requests import VERSION_VARIABLES
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import CLONE, InstallOutput
from workers.reading.project import ProjectQuestion, ProjectReading
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.install.dependencies import DependencyInstaller, Project


def build(parts: StageParts) -> InstallStage:
    executor = parts.open_executor()
    snapshots, index = parts.snapshots(), SnapshotIndex(parts.database)
    tools = ToolProvider(executor, snapshots, ToolRepository(parts.database), executor.toolchain, parts.settings.python)
    return InstallStage(
        executor,
        snapshots,
        index,
        executor.toolchain,
        tools,
        ContentReader(),
        limits=parts.settings.limits,
        secrets=parts.settings.secrets,
    )


class InstallStage(StageFunction):
    """Detects what the project is, and stores its dependencies as a snapshot over the source."""

    def __init__(
        self,
        executor: Executor,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        toolchain: Toolchain,
        tools: ToolProvider,
        reader: ContentReader,
        *,
        limits: LimitSettings,
        secrets: SecretSettings,
    ) -> None:
        self._executor = executor
        self._snapshots = snapshots
        self._toolchain = toolchain
        self._tools = tools
        self._reader = reader
        self.installer = DependencyInstaller(executor, snapshots, index, toolchain, limits=limits, secrets=secrets)

    def reap(self, name: str) -> None:
        self._executor.reap(name)

    def take_over(self, name: str) -> None:
        self._executor.take_over(name)

    def run(self, context: StageContext) -> StageResult[InstallOutput]:
        deployment = context.deployment
        source = context.inputs[CLONE].source
        with self._snapshots.attach(deployment.tenant_id, source) as tree:
            reading = self._read(context, tree, source)
            detection = reading.detection
            for reason in detection.reasons:
                context.log.system(reason)
            for command, what in (
                (detection.install_command, "install command"),
                (detection.build_command, "build command"),
            ):
                check_command(command or "true", what)
            tools = self._provide_tools(context, reading)
            installed = None
            if reading.dependencies is not None:
                project = Project(source, detection, reading.dependencies, tools)
                installed = self.installer.install(context, project)
        output = InstallOutput(
            source=source,
            dependencies=installed.dependencies if installed else None,
            prepared=installed.prepared if installed else None,
            detection=detection,
            tools=tools,
            watched=list(reading.watched),
        )
        return StageResult(
            output,
            is_cache_hit=installed is not None and installed.is_cache_hit,
            facts={"framework": detection.framework},
        )

    def _read(self, context: StageContext, tree: Path, source: str) -> ProjectReading:
        deployment = context.deployment
        question = ProjectQuestion(
            deployment.root_directory or ".",
            _overrides(context),
            self._toolchain.node_version,
            self._toolchain.npm_version,
            self._toolchain.python_version,
            versions_of(context.variables),
        )
        return self._reader.read_project(tree, question, context.cancelled, f"{deployment.tenant_id}/{source}")

    def _provide_tools(self, context: StageContext, reading: ProjectReading) -> list[Tool]:
        if reading.notice:
            context.log.system(reading.notice)
        return self._tools.provide(context, reading.tools)


def versions_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The project's variables that choose the version of a tool."""
    return {name: variables[name][:100] for name in VERSION_VARIABLES.values() if name in variables}


def _overrides(context: StageContext) -> Overrides:
    deployment = context.deployment
    return Overrides(
        framework=deployment.framework,
        install_command=deployment.install_command,
        build_command=deployment.build_command,
        output_directory=deployment.output_directory,
        node_version=deployment.node_version,
        package_manager=context.variables.get(FORCING_VARIABLE),
        is_application=deployment.is_application,
        is_preview=deployment.is_preview,
    )
